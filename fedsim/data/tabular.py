"""Tables: CSV files, scikit-learn's embedded sets, and draws of a linear model."""

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedsim.data.config import CsvConfig, LinearConfig
from fedsim.data.npz import Part
from fedsim.errors import FedsimError, nearest
from fedsim.randomness import generator

Names = tuple[str, ...] | None
"""What the classes are called."""

EMBEDDED_TABLES = ("breast_cancer", "diabetes")

_BLANK = ("", "na", "nan", "null", "?")
_MOST_WORDS = 50
"""Different words in a column that is still one of categories."""


def embedded(name: str) -> tuple[Part, Names]:
    """Return one of scikit-learn's small tables, and the names of its classes; diabetes has numbers to predict."""
    # Here, not above: the import takes a second.
    from sklearn import datasets

    table = {"breast_cancer": datasets.load_breast_cancer, "diabetes": datasets.load_diabetes}[name]()
    if name == "diabetes":
        return Part(table.data.astype(np.float32), table.target.astype(np.float32)), None
    return Part(table.data.astype(np.float32), table.target.astype(np.int64)), tuple(map(str, table.target_names))


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


def read_csv(path: Path, config: CsvConfig) -> tuple[Part, Names]:
    """Return a table with a header as numbers, and the names of its classes, None where the target is a number.

    Columns are separated by commas, semicolons or tabs. A column with words becomes one column of 0 and 1 per word;
    blanks in a column of numbers are filled with its median.

    Raises
    ------
    FedsimError
        With the path, if the file is not such a table or the columns asked for are not in it.
    """
    header, rows = _read(path)
    target = header[-1] if config.target is None else config.target
    for option, names in (("target", (target,)), ("drop", config.drop)):
        for name in names:
            if name not in header:
                raise FedsimError(f"data.csv.{option}: {path} has no column {name!r}; {nearest(name, header)}")
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    y, classes = _target(path, target, columns.pop(target), config.classes)
    inputs = [_inputs(path, name, values) for name, values in columns.items() if name not in config.drop]
    if not inputs:
        raise FedsimError(f"{path}: has no column besides the target {target!r} that is not dropped")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(np.concatenate(inputs, axis=1), dtype=np.float32)
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise FedsimError(f"{path}: holds infinite values; mend the file or leave the column out with data.csv.drop")
    return Part(x, y), classes


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = file.read().splitlines()
        separator = max(",;\t", key=(lines or [""])[0].count)
        header, *rows = [row for row in csv.reader(lines, delimiter=separator, strict=True) if row] or [[]]
    except FileNotFoundError:
        raise FedsimError(f"{path}: no such file; give the path of a table with a header as csv:PATH") from None
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise FedsimError(f"{path}: cannot be read as a table ({reason}); give a .csv or .csv.gz file") from None
    if len(rows) < 2:
        raise FedsimError(f"{path}: needs a header and at least two rows below it")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise FedsimError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise FedsimError(f"{path}: row {number} has {len(row)} values, the header {len(header)}; mend it")
    return [name.strip() for name in header], [[value.strip() for value in row] for row in rows]


def _numbers(values: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return values as numbers, NaN where blank; None if there are words among them."""
    try:
        return np.array([np.nan if value.lower() in _BLANK else float(value) for value in values])
    except ValueError:
        return None


def _target(
    path: Path, name: str, values: list[str], as_classes: bool
) -> tuple[npt.NDArray[np.float32] | npt.NDArray[np.int64], Names]:
    blank = [number for number, value in enumerate(values, 1) if value.lower() in _BLANK]
    if blank:
        raise FedsimError(f"{path}: the target {name!r} is blank in row {blank[0]}; leave out rows without one")
    numbers = _numbers(values)
    if numbers is not None and not as_classes:
        return numbers.astype(np.float32), None
    words, y = np.unique(values if numbers is None else numbers, return_inverse=True)
    if len(words) < 2:
        raise FedsimError(f"{path}: the target {name!r} has one class only")
    return y.astype(np.int64), tuple(f"{word:g}" if numbers is not None else str(word) for word in words)


def _inputs(path: Path, name: str, values: list[str]) -> npt.NDArray[np.float64]:
    numbers = _numbers(values)
    if numbers is None:
        words, codes = np.unique(values, return_inverse=True)
        if len(words) > _MOST_WORDS:
            raise FedsimError(
                f"{path}: the column {name!r} holds {len(words)} different words; leave it out with "
                f"--set data.csv.drop=[{name}]"
            )
        one_hot: npt.NDArray[np.float64] = np.eye(len(words))[codes]
        return one_hot
    blank = np.isnan(numbers)
    return np.where(blank, np.median(numbers[~blank]) if not blank.all() else 0.0, numbers)[:, None]
