"""List the images of a folder and what is known about each, from subfolders or a table, without decoding them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fedsim.data.folder_config import FolderConfig
from fedsim.data.image_cache import missing, name_some
from fedsim.data.npz import Array, IntArray
from fedsim.errors import FedsimError, nearest
from fedsim.paths import expanded
from fedsim.randomness import generator
from fedsim.reading import require_regular

Table = Mapping[str, Sequence[str]]
"""{column name: texts}."""

TRAIN, TEST, UNSEEN = 0, 1, 2
ROLES = ("train", "test", "unseen")
_VAL = 3  # used as the test set if there is none, otherwise left out

_SPLITS = {
    "train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST, "unseen": UNSEEN, "val": _VAL, "valid": _VAL,
    "validation": _VAL, "dev": _VAL,
}  # fmt: skip
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_TABLES = ("metadata.csv", "metadata.parquet", "labels.csv", "labels.parquet")
_USUAL = {
    "path": ("path", "file_name", "filename", "file", "image_path", "image"),
    "label": ("label", "class", "target"),
    "identity": ("identity", "person", "subject"),
    "split": ("split", "subset", "partition"),
}


class CodedColumn(NamedTuple):
    """A fact about each image, such as the family of a person."""

    codes: IntArray
    """(n,) codes from 0 on."""
    names: tuple[str, ...] | None
    """Names of the codes 0, 1, ...; None if the codes are numbers of the data."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a data set. Once it is `complete`, the images of each role are contiguous."""

    root: Path
    files: tuple[str, ...]
    """(n,) paths relative to the root."""
    role: npt.NDArray[np.int8]
    """(n,) TRAIN, TEST or UNSEEN."""
    y: Array
    """int64 (n,) classes, or uint8 (n, L) labels, 0 or 1."""
    label_names: tuple[str, ...] | None
    """Names of the C classes, or of the L labels."""
    columns: Mapping[str, CodedColumn]
    """{name: column}; `identity` is the person or thing in an image."""
    notes: tuple[str, ...] = field(default=())
    """Remarks for the user."""
    identity_name: str = "identity"
    """The table's name for the column `identity`."""

    def only(self, rows: IntArray | npt.NDArray[np.bool_], *notes: str) -> Listing:
        """Return some of the images, in this order, with further notes."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        columns = {name: CodedColumn(column.codes[rows], column.names) for name, column in self.columns.items()}
        return replace(
            self, files=tuple(self.files[row] for row in rows), role=self.role[rows], y=self.y[rows], columns=columns,
            notes=(*self.notes, *notes),
        )  # fmt: skip

    def complete(self, config: FolderConfig, test_fraction: float) -> Listing:
        """Return the images to decode: training images, then test images, then unseen ones.

        Raises
        ------
        FedsimError
            If images are missing and `config.missing` is `refuse`, or no image is left for training or testing.
        """
        listing, gone = self, missing(self.root, self.files)
        if gone.any():
            names = [self.files[row] for row in np.flatnonzero(gone)]
            if config.missing == "refuse":
                raise FedsimError(
                    f"{self.root}: {len(names)} of {len(gone)} images are missing: {name_some(names)}; put them there, "
                    "or set data.folder.missing=drop"
                )
            listing = self.only(~gone, f"{len(names)} of {len(gone)} images are missing and left out")
        role = listing.role.copy()
        if not (role == TEST).any():
            role[role == _VAL] = TEST
        if not (role == TEST).any():
            role[_drawn_test(listing, test_fraction)] = TEST
        order = np.argsort(role, kind="stable")
        listing = replace(listing, role=role).only(order[role[order] != _VAL])
        for name, number in (("train", TRAIN), ("test", TEST)):
            if not (listing.role == number).any():
                raise FedsimError(f"{self.root}: no image is left to {name} on; see data.folder.split")
        return listing

    def part(self, role: int) -> slice:
        """Return the rows of a role; only for a complete listing."""
        first, last = np.searchsorted(self.role, (role, role + 1)).tolist()
        return slice(first, last)


def _drawn_test(listing: Listing, share: float) -> IntArray:
    """Return the rows of a test share of each class. The seed is the same for all runs, so images are decoded once."""
    strata = listing.y if listing.y.ndim == 1 else listing.y.astype(np.int64) @ (1 << np.arange(listing.y.shape[1]))
    chosen = []
    for label in np.unique(strata):
        rows = np.flatnonzero((strata == label) & (listing.role == TRAIN))
        drawn = generator(0, "folder-test-split", int(label)).permutation(rows)
        chosen.append(drawn[: min(round(share * len(rows)), len(rows) - 1)] if len(rows) else rows)
    return np.concatenate(chosen)


def list_folder(path: Path, config: FolderConfig) -> Listing:
    """Return the images of a folder: those in its table, if it has one, otherwise those in its subfolders.

    Subfolders are classes, PATH/CLASS/..., or PATH/SPLIT/CLASS/... where SPLIT is train, test, val or unseen.

    Raises
    ------
    FedsimError
        If the folder does not exist, it has no image, or the table is malformed.
    """
    path = expanded(path)
    if path.is_file():
        return _by_table(path.parent, path, config)
    if not path.is_dir():
        raise FedsimError(f"{path}: no such folder; give one with a folder for each class, as folder:PATH")
    table = None if config.table is None else path / expanded(config.table)
    found = table or next((path / name for name in _TABLES if (path / name).is_file()), None)
    return _by_folders(path) if found is None else _by_table(path, found, config)


def _by_folders(root: Path) -> Listing:
    tops = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    parts = {name: _SPLITS[name.lower()] for name in tops if name.lower() in _SPLITS}
    if parts and len(parts) < len(tops):
        raise FedsimError(
            f"{root}: has folders that are splits ({', '.join(parts)}) and others "
            f"({name_some([name for name in tops if name not in parts])}); keep one kind"
        )
    rows: list[tuple[str, str, int]] = []  # file, class, role
    for top, role in (parts or {"": TRAIN}).items():
        folders = [entry for entry in (root / top).iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        for folder in folders:
            found = (file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
            rows += [(file.relative_to(root).as_posix(), folder.name, role) for file in found]
    if not rows:
        raise FedsimError(
            f"{root}: holds no image in a folder of its class ({', '.join(_SUFFIXES)}), and no table "
            f"({', '.join(_TABLES)}); name one with data.folder.table"
        )
    files, classes, roles = zip(*sorted(rows), strict=True)
    y, names = _classes(root, classes, np.array(roles))
    return Listing(root, files, np.array(roles, np.int8), y, names, {})


def _classes(where: Path, words: Sequence[str], role: npt.NDArray[Any]) -> tuple[IntArray, tuple[str, ...]]:
    """Return classes (n,) and their names, ordered by name, or by value if the names are numbers."""
    known = sorted(set(words), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal()
                                                                   else 0, name))  # fmt: skip
    if len(known) < 2:
        raise FedsimError(f"{where}: all images are of one class, {known[0]!r}; needs two or more")
    number = {name: k for k, name in enumerate(known)}
    y = np.array([number[word] for word in words], np.int64)
    if len(untrained := set(range(len(known))) - set(y[role == TRAIN].tolist())):
        raise FedsimError(f"{where}: no training image is of class {known[min(untrained)]!r}; give it some")
    return y, tuple(known)


def _by_table(root: Path, file: Path, config: FolderConfig) -> Listing:
    table = read_table(file)
    used = {kind: column_of(table, file, kind, getattr(config, kind)) for kind in ("path", "identity", "split")}
    labels = config.label or ((found,) if (found := column_of(table, file, "label", None)) else ())
    for kind, known in (("path", used["path"]), ("label", labels)):
        if not known:
            raise FedsimError(
                f"{file}: which column is the {kind}? it has {', '.join(table)}; name one with data.folder.{kind}"
            )
    for name in labels:
        column_of(table, file, "label", name)
    assert used["path"] is not None
    files = tuple(table[used["path"]])
    require_own_files(file, files)
    role = np.full(len(files), TRAIN, np.int8)
    if used["split"] is not None:
        role = _roles(table, file, used["split"])
    if len(labels) == 1:
        y, names = _classes(file, table[labels[0]], role)
    else:
        y, names = np.stack([_flags(table, file, name) for name in labels], axis=1), labels
    taken = {used["path"], used["split"], *labels}
    columns = {name: encoded(table[name]) for name in table if name not in taken}
    if used["identity"] is not None:
        columns["identity"] = columns.pop(used["identity"])
    return Listing(root, files, role, y, names, columns, identity_name=used["identity"] or "identity")


def read_table(file: Path) -> Table:
    """Return a CSV or parquet file as text; empty cells are empty texts.

    Raises
    ------
    FedsimError
        If it cannot be read, or has no rows.
    """
    import pandas as pd  # imported here: it takes half a second

    try:
        require_regular(file)
        if file.suffix.lower() == ".parquet":
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(
                file, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True,
                skip_blank_lines=False,
            )  # fmt: skip
        table = table.astype(object).where(table.notna(), "").astype(str)
    except FileNotFoundError:
        raise FedsimError(f"{file}: no such table; give a .csv or .parquet file with data.folder.table") from None
    except Exception as error:  # pandas and pyarrow raise many types
        raise FedsimError(f"{file}: not a sound table ({' '.join(str(error).split())[:200]})") from None
    if not len(table):
        raise FedsimError(f"{file}: has no rows; needs one for each image")
    return {str(name).strip(): table.iloc[:, place].tolist() for place, name in enumerate(table.columns)}


def column_of(table: Table, file: Path, kind: str, given: str | None) -> str | None:
    """Return the column of this kind: the given one, or the first with a usual name; None if there is none.

    Raises
    ------
    FedsimError
        If the given column does not exist.
    """
    names = list(table)
    if given is not None:
        if given not in names:
            raise FedsimError(f"{file}: data.folder.{kind} is {given!r}, which is no column; {nearest(given, names)}")
        return given
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in _USUAL[kind] if name in lower), None)


def require_own_files(table: Path, files: Sequence[str]) -> None:
    """Refuse file names that are empty, listed twice, or outside of the folder of images."""
    seen: set[str] = set()
    for line, name in enumerate(files, start=2):
        if not name:
            refuse(table, line, "names no image")
        if name in seen:
            refuse(table, line, f"{name} is there twice; leave one of the rows out")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            refuse(table, line, f"{name} is outside of the folder; give paths below it")
        seen.add(name)


def refuse(file: Path, line: int, what: str) -> NoReturn:
    """Raise the error for a line of a table."""
    raise FedsimError(f"{file}, line {line}: {what}")


def _roles(table: Table, file: Path, column: str) -> npt.NDArray[np.int8]:
    words = [word.strip().lower() for word in table[column]]
    for line, word in enumerate(words, start=2):
        if word not in _SPLITS:
            refuse(file, line, f"{column} is {word!r}; must be train, test, val or unseen")
    return np.array([_SPLITS[word] for word in words], np.int8)


def _flags(table: Table, file: Path, column: str) -> npt.NDArray[np.uint8]:
    words = {"0": 0, "1": 1, "-1": 0, "false": 0, "true": 1, "0.0": 0, "1.0": 1}
    values = [value.strip().lower() for value in table[column]]
    for line, value in enumerate(values, start=2):
        if value not in words:
            refuse(file, line, f"{column} is {value!r}; a label among several is 0 or 1")
    return np.array([words[value] for value in values], np.uint8)


def encoded(values: Sequence[str]) -> CodedColumn:
    """Return a column of texts as codes: whole numbers from 0 on stay; other texts are numbered in sorted order."""
    if all(value.isdecimal() and len(value) < 10 for value in values):
        return CodedColumn(np.array([int(value) for value in values], np.int64), None)
    known = sorted(set(values))
    number = {name: k for k, name in enumerate(known)}
    return CodedColumn(np.array([number[value] for value in values], np.int64), tuple(known))
