"""Data sets from NumPy archives and from users' functions, with checks of every array."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.errors import FedsimError, reason_of
from fedsim.plugins import own_function
from fedsim.randomness import generator
from fedsim.reading import require_regular

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

_MOST_RATIO = 200  # largest ratio of the arrays' size to the archive's, beyond _SPARE_BYTES
_SPARE_BYTES = 1 << 28
_LAYOUTS = "x_train, y_train, x_test, y_test; x, y; or train_images, train_labels, test_images, test_labels"
_KEYS = {f"{half}_{part}" for half in ("train", "val", "test") for part in ("images", "labels")} | {
    f"{part}{half}" for part in ("x", "y", "identity") for half in ("", "_train", "_test")
}
# Errors of NumPy and zipfile for broken archives: no zip, truncated, bad checksum, objects, encrypted, absurd size.
_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set: `x` uint8 (n, C, H, W) or float64 (n, D), `y` int64 or float64 (n,), `identity` (n,).

    Several labels are `y` uint8 (n, L), 0 or 1. Tables stay float64 until they are centred.
    """

    x: Array
    y: Array
    identity: IntArray | None = None


def read_npz(path: Path, test_fraction: float, seed: int, known_classes: int | None = None) -> tuple[Part, Part]:
    """Return the training and the test part of an archive.

    There are three layouts of keys: `x_train, y_train, x_test, y_test` with optional `identity_train, identity_test`;
    or `x, y` with optional `identity`, which replaces a missing `y`, split class by class with the run's seed; or
    MedMNIST's names, whose `val` is only used if there is no test part. The targets of a table may be floats, for
    regression. Labels are all of 0..C-1; with `known_classes` C of another data set, any of these.

    Raises
    ------
    FedsimError
        With the path, if the file is not such an archive or its arrays do not match each other.
    """
    return _parts(_Archive(path, _read(path)), test_fraction, seed, known_classes)


def own_parts(path: Path, wanted: str | None, test_fraction: float, seed: int) -> tuple[Part, Part]:
    """Return the training and the test part from a function in a user's file, which returns {name: array}.

    Raises
    ------
    FedsimError
        With the path, if the function fails or its arrays do not match each other; see `read_npz`.
    """
    load = own_function((path, wanted), "data.name", "a function that returns a data set")
    return parts_of_function(load, path, test_fraction, seed)


def parts_of_function(
    load: Callable[[], Mapping[str, Any]], path: Path, test_fraction: float, seed: int
) -> tuple[Part, Part]:
    """Return the training and the test part from a function's result; error messages begin with `path`."""
    try:
        given = load()
        arrays = {str(key): np.asarray(value) for key, value in given.items()}
    except Exception as error:
        raise FedsimError(
            f"{path}: {getattr(load, '__name__', load)}() fails ({reason_of(error)}); it must return {{name: array}}"
        ) from error
    return _parts(_Archive(path, {key: value for key, value in arrays.items() if key in _KEYS}), test_fraction, seed)


def parts_of(name: str, arrays: dict[str, Array], test_fraction: float, seed: int) -> tuple[Part, Part]:
    """Return the training and the test part from {name: array}, see `read_npz`; error messages begin with `name`.

    Raises
    ------
    FedsimError
        If the arrays do not match each other.
    """
    return _parts(_Archive(Path(name), arrays), test_fraction, seed)


def _parts(archive: _Archive, test_fraction: float, seed: int, known_classes: int | None = None) -> tuple[Part, Part]:
    if "x_train" in archive:
        train = archive.part("x_train", "y_train", "identity_train")
        test = archive.part("x_test", "y_test", "identity_test")
    elif "train_images" in archive:
        held = "test" if "test_images" in archive or "val_images" not in archive else "val"
        train = archive.part("train_images", "train_labels")
        test = archive.part(f"{held}_images", f"{held}_labels")
    elif "x" in archive:
        train, test = split(archive.part("x", "y" if "y" in archive else "identity", "identity"), test_fraction, seed)
    else:
        raise archive.error(f"holds none of the keys it should; needs {_LAYOUTS}")
    if not len(test.y):
        raise archive.error("data.test_fraction leaves no test samples; raise it")
    if train.x.shape[1:] != test.x.shape[1:]:
        raise archive.error(f"training inputs are {train.x.shape[1:]}, test inputs {test.x.shape[1:]}")
    if train.y.dtype != test.y.dtype:
        raise archive.error(f"training targets are {train.y.dtype}, test targets {test.y.dtype}; give both as one")
    if train.y.shape[1:] != test.y.shape[1:]:
        raise archive.error(f"training samples have {train.y.shape[1:]} labels, test samples {test.y.shape[1:]}")
    if train.y.dtype.kind != "i":  # numbers, or several labels
        if known_classes is None and train.y.dtype.kind == "f" and (train.y == train.y[0]).all():
            raise archive.error(f"all training targets are {train.y[0]:g}: there is nothing to learn")
        return train, test
    if known_classes is not None:
        if (top := max(train.y.max(), test.y.max())) >= known_classes:
            raise archive.error(f"has label {top}, and the run's classes are 0..{known_classes - 1}; give such labels")
        return train, test
    classes = int(train.y.max()) + 1
    if (train.y == train.y[0]).all():
        raise archive.error(f"all training labels are {train.y[0]}, so there is one class only; needs two or more")
    if len(np.unique(train.y)) != classes:
        raise archive.error(f"training labels must be all of 0..{classes - 1}; number the classes without gaps")
    if test.y.max() >= classes:
        raise archive.error(f"test label {test.y.max()} is not among the training labels 0..{classes - 1}")
    return train, test


def split(whole: Part, test_fraction: float, seed: int) -> tuple[Part, Part]:
    """Return (train, test) of a data set without a test set, split class by class if it has classes."""
    is_test = np.zeros(len(whole.y), dtype=np.bool_)
    strata = whole.y if whole.y.dtype.kind == "i" else np.zeros(len(whole.y), np.int64)
    for c in np.unique(strata):
        rows = generator(seed, "test-split", int(c)).permutation(np.flatnonzero(strata == c))
        is_test[rows[: min(round(test_fraction * len(rows)), len(rows) - 1)]] = True

    def take(mask: npt.NDArray[np.bool_]) -> Part:
        return Part(whole.x[mask], whole.y[mask], None if whole.identity is None else whole.identity[mask])

    return take(~is_test), take(is_test)


def _require_room(loaded: np.lib.npyio.NpzFile, packed: int) -> None:
    members = [] if loaded.zip is None else loaded.zip.infolist()
    unpacked = sum(int(member.file_size) for member in members)
    if unpacked > _MOST_RATIO * packed + _SPARE_BYTES:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, more than {_MOST_RATIO} times its size")


def _read(path: Path) -> dict[str, Any]:
    try:
        require_regular(path)
        with path.open("rb") as stream:  # given a path, np.load would leave a broken archive open
            loaded = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            _require_room(loaded, path.stat().st_size)
            return {key: loaded[key] for key in loaded.files if key in _KEYS}
    except FileNotFoundError:
        raise FedsimError(f"{path}: no such file; give the path of a NumPy archive as npz:PATH") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        if "pickle" in reason:  # NumPy's message advises to load it unsafely
            reason = "it holds Python objects, or is something else; save arrays of numbers with numpy.savez"
        raise FedsimError(f"{path}: not a sound NumPy .npz archive ({reason})") from error


class _Archive:
    """The arrays of one file; every error is one line that begins with the path."""

    def __init__(self, path: Path, arrays: dict[str, Any]) -> None:
        self.path = path
        self.arrays = arrays

    def error(self, what: str) -> FedsimError:
        return FedsimError(f"{self.path}: {what}")

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def part(self, x_key: str, y_key: str, identity_key: str = "") -> Part:
        x = self._inputs(x_key)
        identity = self._integers(identity_key, len(x)) if identity_key in self else None
        return Part(x, self._targets(y_key, x), identity)

    def _array(self, key: str) -> Array:
        if key not in self:
            raise self.error(f"lacks {key}; needs {_LAYOUTS}")
        array = self.arrays[key]
        if not isinstance(array, np.ndarray):  # NumPy returns a member that is no array as bytes
            raise self.error(f"{key} is not an array")
        return array

    def _inputs(self, key: str) -> Array:
        x = self._array(key)
        if x.ndim == 2 and x.dtype.kind == "f":
            x = np.ascontiguousarray(x, dtype=np.float64)
            if not np.isfinite(x).all():
                raise self.error(f"{key} holds NaN or infinite values")
        elif x.ndim in (3, 4) and x.dtype == np.uint8:
            if x.ndim == 3:
                x = x[:, None]
            elif x.shape[-1] in (1, 3):
                x = x.transpose(0, 3, 1, 2)
            elif x.shape[1] not in (1, 3):
                raise self.error(f"{key} has shape {x.shape}; images have 1 or 3 channels, last or second")
            x = np.ascontiguousarray(x)
        else:
            raise self.error(
                f"{key} is {x.dtype} of shape {x.shape}; needs uint8 images (n, H, W[, channels]) or floats (n, D)"
            )
        if x.size == 0:
            raise self.error(f"{key} is empty")
        return x

    def _targets(self, key: str, x: Array) -> Array:
        values = self._array(key)
        if values.ndim == 2 and values.shape[1] > 1 and values.dtype.kind in "iubf":
            if len(values) == len(x) and np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all():
                classes: IntArray = np.argmax(values, axis=1).astype(np.int64)  # one-hot
                return classes
            return self._labels(key, len(x))
        if x.ndim > 2 or values.dtype.kind != "f":
            return self._integers(key, len(x))
        y = values.reshape(len(values), -1).astype(np.float64)
        if y.shape != (len(x), 1) or not np.isfinite(y).all():
            raise self.error(f"{key} has shape {values.shape}; needs {len(x)} finite numbers (no NaN), one per row")
        return y[:, 0]

    def _labels(self, key: str, length: int) -> npt.NDArray[np.uint8]:
        values = self._array(key)
        if len(values) != length or not np.isin(values, (0, 1)).all():
            raise self.error(f"{key} has shape {values.shape}; several labels of {length} samples are each 0 or 1")
        return values.astype(np.uint8)

    def _integers(self, key: str, length: int) -> IntArray:
        values = self._array(key)
        if values.ndim == 2 and values.shape[1] == 1:  # as MedMNIST has them
            values = values[:, 0]
        if values.dtype.kind not in "iu" or values.shape != (length,):
            raise self.error(f"{key} is {values.dtype} of shape {values.shape}; needs integers of shape ({length},)")
        if values.min() < 0 or values.max() > np.iinfo(np.int64).max:
            raise self.error(f"{key} holds {values.min()}..{values.max()}; needs numbers from 0")
        return values.astype(np.int64)
