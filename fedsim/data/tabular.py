"""Tables: CSV files, scikit-learn's embedded sets, and draws from a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.data.config import LinearConfig
from fedsim.data.csv_config import CsvConfig
from fedsim.data.npz import Array, IntArray, Part, split
from fedsim.data.table_columns import FEW_ROWS, TableColumn, understand
from fedsim.data.table_encoding import Encoded, Encoding
from fedsim.data.table_text import Cells, read_cells
from fedsim.errors import FedsimError, nearest
from fedsim.paths import expanded
from fedsim.randomness import generator

Names = tuple[str, ...] | None
"""Names of the classes; None for regression."""

EMBEDDED_TABLES = ("breast_cancer", "diabetes")

_MOST_CLASSES = 25
"""With at most this many distinct numbers, a numeric target may as well be classes."""
_SHOWN = 5
_TEST = {"test": True, "holdout": True, "true": True, "1": True, "yes": True}
_TEST |= {"train": False, "training": False, "false": False, "0": False, "no": False}


def embedded(name: str) -> tuple[Part, Names]:
    """Return one of scikit-learn's small tables and its class names; the target of `diabetes` is a number."""
    # Imported here: it takes a second.
    from sklearn import datasets

    table = {"breast_cancer": datasets.load_breast_cancer, "diabetes": datasets.load_diabetes}[name]()
    if name == "diabetes":
        return Part(table.data, table.target.astype(np.float64)), None
    return Part(table.data, table.target.astype(np.int64)), tuple(map(str, table.target_names))


def linear_truth(config: LinearConfig, seed: int) -> npt.NDArray[np.float64]:
    """Return theta (d,), a unit vector in a random direction."""
    direction = generator(seed, "linear theta").standard_normal(config.d)
    theta: npt.NDArray[np.float64] = direction / np.linalg.norm(direction)
    return theta


def linear_model(config: LinearConfig, seed: int) -> tuple[Part, Part, npt.NDArray[np.float32]]:
    """Draw x ~ N(0, I_d) and y = <x, theta> + N(0, sigma^2); returns (train, test, <x, theta> of the test rows)."""
    theta = linear_truth(config, seed)

    def draw(what: str, rows: int) -> tuple[Part, npt.NDArray[np.float64]]:
        rng = generator(seed, f"linear {what}")
        x = rng.standard_normal((rows, config.d)).astype(np.float32)
        truth = x @ theta
        return Part(x, (truth + config.sigma * rng.standard_normal(rows)).astype(np.float32)), truth

    test, truth = draw("test", config.n_test)
    return draw("train", config.n)[0], test, truth.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Table:
    """A table as numbers: training and test part with inputs float64 (n, D), and what the numbers stand for."""

    train: Part
    """The training part; its identities are clients, if a column names them."""
    test: Part
    classes: Names
    """None if the target is a number."""
    clients: Names
    """None if no column names them."""
    inputs: tuple[str, ...]
    """(D,) names of the input columns."""
    reading: str
    """One paragraph: how the file was interpreted."""
    encoding: Encoding
    """How its columns were encoded as numbers."""


def read_csv(path: Path, config: CsvConfig, test_fraction: float, seed: int, known: Encoding | None = None) -> Table:
    """Return a table as numbers. Options that are not given are detected, and reported in `Table.reading`.

    A column of words becomes one column of 0 and 1 per word, and blanks in a column of numbers become its median. The
    words and medians come from the training rows, or from `known`, the encoding of another table. With `known`, columns
    that the other table does not have are left out, and classes are those of the other table.

    Raises
    ------
    FedsimError
        With the path, if the file is not such a table or lacks a configured column.
    """
    cells = read_cells(path, config)
    config = config if known is None else _asked_of(cells, config)
    other = _test_file(cells, config)
    rows = cells.rows + ([] if other is None else _like(cells, other))
    target = config.target or (known and known.target) or cells.names[-1]
    marker = config.test if other is None else None
    _require_columns(cells, config, target, marker)
    columns_of_text = zip(cells.names, zip(*rows, strict=True), strict=True)
    named = {name: np.array(text, dtype=np.str_) for name, text in columns_of_text if name not in config.drop}
    whose, clients = _client_codes(cells, config.client, named.pop(config.client or "", None))
    is_test = None if marker is None else _test_rows(cells, marker, named.pop(marker))
    if other is not None:
        is_test = np.arange(len(rows)) >= len(cells.rows)
    if target not in named:
        raise FedsimError(f"data.csv.target: {target!r} is used for something else as well; name another column")
    columns = {
        column.name: column
        for column in understand([*named.items()], config.decimal, cells.separator == ";", config.dates, config.blank)
    }
    as_read = columns.pop(target)
    y, classes = _target(cells, as_read, config.classes) if known is None else _known_target(cells, as_read, known)
    whole = Part(np.arange(len(y))[:, None], y, whose)
    train, test = split(whole, test_fraction, seed) if is_test is None else _parted(cells, whole, is_test)
    if not len(test.y):
        raise FedsimError(f"{path}: data.test_fraction leaves no test samples of {len(y)} rows; raise it")
    said = Reading(cells, [])
    said.add(_about_target(target, y, classes, config.target is None))
    if as_read.note:
        said.manners[as_read.note] = [target]
    inputs = [_encoded(said, column, train.x[:, 0], each) for column, each in _chosen(said, columns, known)]
    said.about_columns()
    if not inputs:
        why = next((f"; {what}" for what in said.said if what.startswith("left out")), "")
        raise cells.error(f"has no column besides the target {target!r} that is not dropped or blank{why}")
    if clients:
        said.add(f"{config.client}: {len(clients)} clients ({_listed(clients)})")
    said.add(
        f"test: {len(test.y)} of {len(y)} rows, "
        + ("drawn" if is_test is None else f"by {marker}" if marker else f"from {config.test}")
    )
    x = np.concatenate([values for values, _ in inputs], axis=1)
    train, test = (Part(np.ascontiguousarray(x[part.x[:, 0]]), part.y, part.identity) for part in (train, test))
    called = tuple(name for _, encoded in inputs for name in encoded.inputs)
    encoding = Encoding(target, classes, tuple(encoded for _, encoded in inputs))
    return Table(train, test, classes, clients, called, said.paragraph(), encoding)


@dataclass
class Reading:
    """Collects sentences about a table."""

    cells: Cells
    said: list[str]
    words: list[str] = field(default_factory=list)
    """Columns of words."""
    manners: dict[str, list[str]] = field(default_factory=dict)
    """{note about the values: columns}."""

    def add(self, what: str) -> None:
        """Add a sentence."""
        self.said.append(what)

    def about_columns(self) -> None:
        """Add the notes about the values of columns, and the columns of words."""
        for manner, names in self.manners.items():
            self.add(f"{_listed(names)}: {manner}")
        if self.words:
            self.add(f"{_counted(len(self.words), 'column')} of words, one-hot ({_listed(self.words)})")

    def paragraph(self) -> str:
        """Return everything as one paragraph."""
        return "; ".join([f"{len(self.cells.rows)} rows", *self.cells.notes, *self.said])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _test_file(cells: Cells, config: CsvConfig) -> Cells | None:
    """Return the cells of the table with the test rows, if the configuration names one."""
    if config.test is None or config.test in cells.names:
        return None
    path = expanded(config.test)
    if not path.is_file():
        raise FedsimError(
            f"data.csv.test: {config.test!r} is neither a column of {cells.path} nor a file; "
            f"{nearest(config.test, cells.names)}"
        )
    return read_cells(path, config, least=1)


def _like(cells: Cells, other: Cells) -> list[list[str]]:
    """Return the rows of another table, with the columns in the order of this one."""
    if missing := [name for name in cells.names if name not in other.names]:
        raise other.error(f"has no column {missing[0]!r}, which {cells.path} has")
    places = [other.names.index(name) for name in cells.names]
    return [[row[place] for place in places] for row in other.rows]


def _client_codes(cells: Cells, name: str | None, text: Any) -> tuple[IntArray | None, Names]:
    """Return the client of each row as a code, and the clients' names, sorted; whole numbers by their value."""
    if name is None or text is None:
        return None, None
    if (blank := np.flatnonzero(text == "")).size:
        raise cells.error(f"the client {name!r} is blank in row {blank[0] + 1}; fill it in, or leave out the row")
    words, codes = np.unique(text, return_inverse=True)
    if all(word.isdecimal() for word in words.tolist()):
        order = sorted(range(len(words)), key=lambda place: (int(words[place]), words[place]))
        ranks = np.argsort(order)
        words, codes = words[order], ranks[codes]
    return codes.astype(np.int64), tuple(words.tolist())


def _test_rows(cells: Cells, name: str, text: Any) -> npt.NDArray[np.bool_]:
    lower = np.char.lower(text)
    for row, word in enumerate(lower.tolist(), 1):
        if word not in _TEST:
            raise cells.error(
                f"the column {name!r} says {str(text[row - 1])!r} in row {row}, not train or test; correct it"
            )
    return np.array([_TEST[word] for word in lower.tolist()])


def _parted(cells: Cells, whole: Part, is_test: npt.NDArray[np.bool_]) -> tuple[Part, Part]:
    parts = [
        Part(whole.x[mask], whole.y[mask], None if whole.identity is None else whole.identity[mask])
        for mask in (~is_test, is_test)
    ]
    for part, what in zip(parts, ("training", "test"), strict=True):
        if not len(part.y):
            raise cells.error(f"data.csv.test leaves no {what} rows; correct the column")
    if whole.y.dtype.kind == "i" and (unknown := np.setdiff1d(parts[1].y, parts[0].y)).size:
        rows = np.flatnonzero(is_test)[parts[1].y == unknown[0]]
        raise cells.error(f"the class in row {rows[0] + 1}, a test row, is that of no training row; leave it out")
    return parts[0], parts[1]


def _target(cells: Cells, column: TableColumn, as_classes: bool) -> tuple[Array, Names]:
    """Return the numbers (n,) float64, or the classes (n,) int64 and their names."""
    _require_one_kind(cells, column)
    if (blank := np.flatnonzero(column.blank)).size:
        raise cells.error(f"the target {column.name!r} is blank in row {blank[0] + 1}; leave out rows without one")
    if column.kind in ("numbers", "dates") and not as_classes:
        if not np.isfinite(column.values).all():
            raise cells.error(f"the target {column.name!r} holds infinite values; correct it, or leave such rows out")
        if (column.values == column.values[0]).all():
            raise cells.error(
                f"the target {column.name!r} is {column.text[0]!s} in every row: there is nothing to learn"
            )
        return column.values, None
    if column.kind in ("booleans", "numbers"):
        values, places, y = np.unique(column.values, return_index=True, return_inverse=True)
        # The names are the texts in the file, unless one value is spelled in several ways.
        spelled = [np.unique(column.text[y == number]).tolist() for number in range(len(values))]
        words = [column.text[place] for place in places]
        if any(len(each) > 1 for each in spelled):
            plain = column.kind == "numbers"
            words = [f"{value:.15g}" if plain else ("true" if value else "false") for value in values]
    else:
        distinct, y = np.unique(column.text, return_inverse=True)
        words = distinct.tolist()
    if len(words) < 2:
        raise cells.error(f"the target {column.name!r} has one class only")
    if np.bincount(y).max() == 1 and len(y) > FEW_ROWS:
        raise cells.error(f"the target {column.name!r} has another word in every row, so there are no classes to learn")
    return y.astype(np.int64), tuple(map(str, words))


def _require_one_kind(cells: Cells, column: TableColumn) -> None:
    if column.kind.startswith("mixed"):
        row, word = column.odd
        kind = "dates" if column.kind == "mixed dates" else "numbers"
        what = f"{kind} and, in row {row}, {word!r}" if row else "numbers in several units or spellings"
        blank = f"take the word for a blank with --set data.csv.blank='{word}', " if row else ""
        raise cells.error(
            f"the column {column.name!r} holds {what}; correct it, {blank}or leave it out with "
            f"--set data.csv.drop='{column.name}'"
        )


def _about_target(name: str, y: Array, classes: Names, unasked: bool) -> str:
    last = " (the last column; another: --set data.csv.target=NAME)" if unasked else ""
    if classes is not None:
        counts = np.bincount(y, minlength=len(classes))
        words = [f"{word} {count}" for word, count in zip(classes, counts, strict=True)]
        return f"target: {name}, {len(classes)} classes ({_listed(words)}){last}"
    different = len(np.unique(y))
    hint = ", or classes with --set data.csv.classes=true" if different <= _MOST_CLASSES else ""
    return f"target: {name}, a number from {y.min():.10g} to {y.max():.10g}{hint}{last}"


def _useful(said: Reading, columns: list[TableColumn]) -> list[TableColumn]:
    """Return the columns that are not blank and do not only identify rows; report those left out."""
    kept, left = [], []
    for column in columns:
        unnamed = column.name in said.cells.unnamed and column.name == said.cells.names[0]
        why = "blank" if column.kind == "empty" else column.names_rows(unnamed)
        if why:
            left.append(f"{column.name} ({why})")
        else:
            kept.append(column)
    if left:
        said.add(f"left out: {_listed(left)}")
    return kept


def _chosen(
    said: Reading, columns: dict[str, TableColumn], known: Encoding | None
) -> Sequence[tuple[TableColumn, Encoded | None]]:
    """Return the columns to use as inputs, with their known encoding, if there is one."""
    if known is None or known.columns is None:
        return [(column, None) for column in _useful(said, [*columns.values()])]
    return [(_like_known(said.cells, columns.get(each.name), each), each) for each in known.columns]


def _require_columns(cells: Cells, config: CsvConfig, target: str, marker: str | None) -> None:
    wanted = {"target": (target,), "client": (config.client,), "test": (marker,), "drop": config.drop}
    for option, asked in wanted.items():
        for name in asked:
            if name is not None and name not in cells.names:
                raise FedsimError(
                    f"data.csv.{option}: {cells.path} has no column {name!r}; {nearest(name, cells.names)}"
                )
    if config.target is None and target in (config.client, marker, *config.drop):
        raise cells.error("name the column to predict with --set data.csv.target=NAME")
    if len(cells.names) == 1:
        raise cells.error(
            f"has no column besides the target {target!r}; if it has, name what separates its values with "
            "--set data.csv.separator=..."
        )


def _asked_of(cells: Cells, config: CsvConfig) -> CsvConfig:
    """Return the options of another table, limited to columns that this table has."""
    there = set(cells.names)
    named = {name: getattr(config, name) for name in ("target", "client", "test")}
    kept = {name: value if value in there else None for name, value in named.items()}
    return config.model_copy(update={**kept, "drop": tuple(name for name in config.drop if name in there)})


def _encoded(
    said: Reading, column: TableColumn, train: IntArray, known: Encoded | None
) -> tuple[npt.NDArray[np.float64], Encoded]:
    """Return a column's inputs (n, d), and its encoding: `known`, or learned from the rows `train`."""
    if known is None or known.kind != "words":
        _require_one_kind(said.cells, column)
    if np.isinf(column.values).any():
        raise said.cells.error(
            f"the column {column.name!r} holds infinite values; correct it, or leave it out with "
            f"--set data.csv.drop='{column.name}'"
        )
    encoded = known or Encoded.learned(column, train)
    if encoded.kind == "words":
        said.words.append(column.name)
        return encoded.values(column), encoded
    if column.note:
        said.manners.setdefault(column.note, []).append(column.name)
    if blanks := int(column.blank.sum()):
        said.add(f"{column.name}: {_counted(blanks, 'blank')}, filled with the training median {encoded.fill:.6g}")
    return encoded.values(column), encoded


def _like_known(cells: Cells, column: TableColumn | None, known: Encoded) -> TableColumn:
    """Return the column to be encoded like a column of another table.

    Raises
    ------
    FedsimError
        If it is missing, or holds something else.
    """
    if column is None:
        raise cells.error(f"has no column {known.name!r}, which the table of the run has")
    if not known.fits(column):
        raise cells.error(f"the column {known.name!r} holds {column.kind}, and in the table of the run {known.kind}")
    return column


def _known_target(cells: Cells, column: TableColumn, known: Encoding) -> tuple[Array, Names]:
    """Return the numbers (n,) float64, or the classes (n,) int64 as numbered in another table; and the class names."""
    if (blank := np.flatnonzero(column.blank)).size:
        raise cells.error(f"the target {column.name!r} is blank in row {blank[0] + 1}; leave out rows without one")
    if known.classes is None:
        if column.kind != "numbers":
            raise cells.error(f"the target {column.name!r} holds {column.kind}, and the run predicts numbers")
        return column.values, None
    words, codes = np.unique(column.text, return_inverse=True)
    found = [known.class_of(word) for word in words.tolist()]
    if None in found:
        raise cells.error(
            f"the target {column.name!r} is {str(words[found.index(None)])!r} in some row, which is no class of the "
            f"run; it has {_listed(known.classes)}"
        )
    return np.array(found, np.int64)[codes], known.classes
