"""Hugging Face data sets, read with `datasets`: by name from its cache or the hub, or a folder of parquet files."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.data.hf_config import HfConfig
from fedsim.data.npz import Array, Part, parts_of
from fedsim.errors import FedsimError, nearest, reason_of

_LABELS = ("label", "labels", "fine_label", "target", "class", "y", "character")
_CLIENTS = ("client_id", "client", "writer_id", "hsf_id", "user_id", "user", "speaker_id", "subject_id", "identity")
_TESTS = ("test", "validation", "valid", "val", "dev")


@dataclass(frozen=True, eq=False)
class Found:
    """A data set, read and interpreted."""

    train: Part
    test: Part
    classes: tuple[str, ...] | None
    reading: str
    """A sentence about how the columns were interpreted."""
    identity_name: str | None
    """The column with the identities."""


def read_hf(name: str, options: HfConfig, test_fraction: float, seed: int) -> Found:
    """Return the training and the test part of `NAME`, `NAME:CONFIG` or a local folder.

    Raises
    ------
    FedsimError
        If the data set cannot be loaded, or its columns do not suit a model.
    """
    if importlib.util.find_spec("datasets") is None:
        raise FedsimError("data.name: hf: needs the library datasets; install it with: pip install datasets")
    with tempfile.TemporaryDirectory() as scratch:
        tables = _tables(name, scratch)
        train = "train" if "train" in tables else next(iter(tables))
        test = next((one for one in _TESTS if one in tables and one != train), None)
        columns = _Columns(name, [tables[train], *([] if test is None else [tables[test]])], options)
        if test is None:
            arrays = columns.arrays(tables[train], "")
        else:
            arrays = columns.arrays(tables[train], "_train") | columns.arrays(tables[test], "_test")
    parts = parts_of(f"hf:{name}", arrays, test_fraction, seed)
    counts = f"{len(parts[0].y):,} training and {len(parts[1].y):,} test samples"
    reading = f"{columns.reading()}; {counts}{'' if test else ', split from one part'}"
    return Found(*parts, columns.classes, reading, columns.client)


def _tables(name: str, scratch: str) -> Mapping[str, Any]:
    """Return the tables of a data set, {split: table}."""
    import datasets

    folder, (path, _, config) = Path(name), name.partition(":")
    try:
        with contextlib.ExitStack() as stack:
            if datasets.is_progress_bar_enabled():
                datasets.disable_progress_bars()
                stack.callback(datasets.enable_progress_bars)
            if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
                loaded = datasets.load_from_disk(name)
            elif folder.is_dir():
                loaded = datasets.load_dataset("parquet", data_files=_parquet(folder), cache_dir=scratch)
            else:
                loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # the loaders of the library raise many types
        reason = reason_of(error)[:200]
        raise FedsimError(
            f"data.name: hf:{name} cannot be had ({reason}); give the folder of its parquet files: hf:FOLDER"
        ) from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _parquet(folder: Path) -> dict[str, list[str]]:
    """Return the parquet files of a folder, {split: files}; a file's name or its folder's begins with the split."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        words = (file.stem.split("-")[0], file.parent.name)
        role = next((word for word in words if word in ("train", *_TESTS)), "train")
        found.setdefault(role, []).append(str(file))
    if not found:
        raise FileNotFoundError(f"{folder} holds no parquet file")
    return found


class _Columns:
    """Chooses the columns for inputs, label and client, and converts them to arrays."""

    def __init__(self, name: str, tables: Sequence[Any], options: HfConfig) -> None:
        self.name, self.options, self.features = name, options, tables[0].features
        self.label = self._named("label", options.label, _LABELS)
        self.client = next((one for one in _CLIENTS if one in self.features and one != self.label), None)
        if options.client is not None:
            self.client = self._named("client", options.client, ())
        rest = [one for one in self.features if one not in (self.label, self.client)]
        images = [one for one in rest if type(self.features[one]).__name__ == "Image"]
        if options.inputs is not None:
            self.inputs = [str(self._named("inputs", options.inputs, ()))]
        elif len(images) > 1:
            raise self._error(f"has images in {', '.join(images)}; say which: --set data.hf.inputs={images[0]}")
        else:
            self.inputs = images or [one for one in rest if _is_numeric(self.features[one])]
        if not self.inputs:
            raise self._error(f"has neither images nor numbers beside {self.label}; its columns: {', '.join(rest)}")
        self.is_image = type(self.features[self.inputs[0]]).__name__ == "Image"
        self.size = None if options.size is None else (options.size, options.size)
        self.mode = ""
        self.classes = self._classes(tables[0])
        names = {str(value) for table in tables for value in table.unique(self.client)} if self.client else set()
        self.people = {name: number for number, name in enumerate(sorted(names))}

    def reading(self) -> str:
        """Return a sentence about the chosen columns."""
        what = f"label: {self.label}" + (f", {len(self.classes)} classes" if self.classes else "")
        shown = ", ".join(self.inputs[:4]) + (", ..." if len(self.inputs) > 4 else "")
        who = f"; {self.client}: {len(self.people):,} identities, for --partition natural" if self.people else ""
        return f"{'images' if self.is_image else 'inputs'}: {shown}; {what}{who}"

    def arrays(self, table: Any, half: str) -> dict[str, Array]:
        """Return a table as arrays; the names of the arrays end in `half`."""
        out = {f"x{half}": self._images(table) if self.is_image else self._numbers(table), f"y{half}": self._y(table)}
        if self.client is not None:
            out[f"identity{half}"] = np.array([self.people[str(value)] for value in table[self.client]], np.int64)
        return out

    def _error(self, what: str) -> FedsimError:
        return FedsimError(f"hf:{self.name}: {what}")

    def _named(self, what: str, given: str | None, usual: Sequence[str]) -> str:
        if given is not None:
            if given not in self.features:
                raise FedsimError(f"data.hf.{what}: no column {given!r}; {nearest(given, self.features)}")
            return given
        found = [one for one, feature in self.features.items() if type(feature).__name__ == "ClassLabel"]
        found = found or [one for one in usual if one in self.features]
        if not found:
            raise self._error(f"which column is the label? --set data.hf.label=...; it has {', '.join(self.features)}")
        return str(found[0])

    def _classes(self, table: Any) -> tuple[str, ...] | None:
        feature = self.features[self.label]
        if type(feature).__name__ == "ClassLabel":
            return tuple(map(str, feature.names))
        if getattr(feature, "dtype", "") in ("string", "large_string", "bool"):
            return tuple(sorted({str(value) for value in table.unique(self.label)}))
        return None

    def _y(self, table: Any) -> Array:
        values = table[self.label]
        if type(self.features[self.label]).__name__ != "ClassLabel" and self.classes is not None:
            number = {name: position for position, name in enumerate(self.classes)}
            if strange := {str(value) for value in values} - number.keys():
                raise self._error(f"{self.label} is {min(strange)!r} in the test part, which no training sample has")
            return np.array([number[str(value)] for value in values], np.int64)
        y = np.asarray(values)
        return y.astype(np.int64) if y.dtype.kind in "iub" else y.astype(np.float64)

    def _numbers(self, table: Any) -> Array:
        columns = [np.asarray(list(table[one]), np.float64).reshape(len(table), -1) for one in self.inputs]
        return np.concatenate(columns, axis=1)

    def _images(self, table: Any) -> Array:
        out = np.empty((0,), np.uint8)
        for row, picture in enumerate(table[self.inputs[0]]):
            self.size = self.size or picture.size
            self.mode = self.mode or ("L" if picture.mode in ("1", "L") else "RGB")
            if picture.size != self.size:
                if self.options.size is None:
                    least = min(*self.size, *picture.size)
                    raise self._error(f"images differ in size; --set data.hf.size={least} makes them alike")
                picture = picture.resize(self.size)
            pixels = np.asarray(picture.convert(self.mode))
            out = out if row else np.empty((len(table), *pixels.shape), np.uint8)
            out[row] = pixels
        return out


def _is_numeric(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)  # the element type of a list
    return str(getattr(inner, "dtype", "")).startswith(("int", "uint", "float", "double", "bool"))
