"""Encode a table's columns as numbers. The encoding is learned from one table's training rows, and reused for others.

A column of words becomes one column of 0 and 1 per word. Blanks in a column of numbers become its median.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsim.data.table_columns import TableColumn

IntArray = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MOST_WORDS = 50
"""Number of words of a column that get an input column of their own; the others share one."""


@dataclass(frozen=True)
class Encoded:
    """The encoding of one column."""

    name: str
    kind: str
    """numbers, booleans, dates or words, see `fedsim.data.table_columns`."""
    words: tuple[str, ...] = ()
    """The words with an input column of their own."""
    rest: bool = False
    """Whether all other words share one more input column; otherwise they are zero everywhere."""
    fill: float = 0.0
    """The value of blanks among numbers."""

    @classmethod
    def learned(cls, column: TableColumn, train: IntArray) -> Encoded:
        """Return the encoding of a column, learned from its training rows."""
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
        """Names of the input columns."""
        if self.kind != "words":
            return (self.name,)
        own = tuple(f"{self.name}={word or '(blank)'}" for word in self.words)
        return (*own, f"{self.name}=(other)") if self.rest else own

    def fits(self, column: TableColumn) -> bool:
        """Return whether a column of another table can be encoded this way; any column can be read as words."""
        quantities = ("numbers", "booleans", "empty")
        return self.kind == "words" or column.kind == self.kind or {column.kind, self.kind} <= set(quantities)

    def values(self, column: TableColumn) -> Floats:
        """Return the input columns (n, d) for a column."""
        if self.kind != "words":
            given = column.values if len(column.values) else np.full(len(column.text), np.nan)
            return np.where(np.isnan(given), self.fill, given)[:, None]
        hot = (column.text[:, None] == np.array(self.words, dtype=np.str_)).astype(np.float64)
        return np.concatenate([hot, 1 - hot.sum(1, keepdims=True)], axis=1) if self.rest else hot


@dataclass(frozen=True)
class Encoding:
    """The encoding of a whole table."""

    target: str | None
    """The column to predict; None: the last one."""
    classes: tuple[str, ...] | None
    """Names of the classes, in the order of their numbers; None for regression."""
    columns: tuple[Encoded, ...] | None
    """Encodings of the input columns; None: all other columns, each encoded by its own content."""

    def class_of(self, word: str) -> int | None:
        """Return the number of a class; None if there is no such class. Numbers may be spelled in several ways."""
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
