"""How the columns of a table become numbers: learned of the training rows of one table, kept to for others of its kind.

A column of words becomes one column of 0 and 1 for each word; blanks in a column of numbers become its median.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsim.data.table_columns import TableColumn

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MOST_WORDS = 50
"""Words of a column that get a column of their own; the others share one."""


@dataclass(frozen=True)
class Encoded:
    """One column."""

    name: str
    kind: str
    """numbers, booleans, dates or words, as `fedsim.data.table_columns` tells them apart."""
    words: tuple[str, ...] = ()
    """Those with a column of their own."""
    rest: bool = False
    """Whether all others share one more; without, they are zeros everywhere."""
    fill: float = 0.0
    """What blanks among numbers become."""

    @classmethod
    def learned(cls, column: TableColumn, train: IntArray) -> Encoded:
        """Return how to encode a column, given which of its rows are training rows."""
        if column.kind != "words":
            known = column.values[train][~np.isnan(column.values[train])]
            return cls(column.name, column.kind, fill=float(np.median(known)) if len(known) else 0.0)
        words, counts = np.unique(column.text[train], return_counts=True)
        rest = len(words) > _MOST_WORDS
        if rest:
            words = np.sort(words[np.argsort(-counts, kind="stable")[:_MOST_WORDS]])
        return cls(column.name, "words", tuple(words.tolist()), rest)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the columns of the inputs are called."""
        if self.kind != "words":
            return (self.name,)
        own = tuple(f"{self.name}={word or '(blank)'}" for word in self.words)
        return (*own, f"{self.name}=(other)") if self.rest else own

    def fits(self, column: TableColumn) -> bool:
        """Return whether a column of another table can be encoded so; words are taken from whatever is written."""
        quantities = ("numbers", "booleans", "empty")
        return self.kind == "words" or column.kind == self.kind or {column.kind, self.kind} <= set(quantities)

    def values(self, column: TableColumn) -> Floats:
        """Return the inputs (n, d) that a column becomes."""
        if self.kind != "words":
            given = column.values if len(column.values) else np.full(len(column.text), np.nan)
            return np.where(np.isnan(given), self.fill, given)[:, None]
        hot = (column.text[:, None] == np.array(self.words, dtype=np.str_)).astype(np.float64)
        return np.concatenate([hot, 1 - hot.sum(1, keepdims=True)], axis=1) if self.rest else hot


@dataclass(frozen=True)
class Encoding:
    """A whole table."""

    target: str | None
    """The column to predict; None: the last one."""
    classes: tuple[str, ...] | None
    """What the classes are called, in the order of their numbers; None where numbers are predicted."""
    columns: tuple[Encoded, ...] | None
    """Of the inputs; None: all others, each as it comes."""

    def class_of(self, word: str) -> int | None:
        """Return the number of a class; None of what is none. Numbers may be spelled in several ways."""
        assert self.classes is not None
        if word in self.classes:
            return self.classes.index(word)
        for number, name in enumerate(self.classes):
            try:
                if float(name) == float(word):
                    return number
            except ValueError:
                continue
        return None
