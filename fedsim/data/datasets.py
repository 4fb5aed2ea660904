"""Data sets in memory: images (uint8), tables (floats) and texts, with classes, labels or numbers as targets."""

import gzip
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.data.config import DATASETS, DataConfig
from fedsim.data.faces import SIZE, list_mucac, list_mufac
from fedsim.data.hugging_face import read_hf
from fedsim.data.images import load_images
from fedsim.data.listing import CodedColumn, Listing, list_folder
from fedsim.data.named import NAMED, read_torchvision
from fedsim.data.npz import Array, IntArray, Part, own_parts, parts_of_function, read_npz, split
from fedsim.data.play import play
from fedsim.data.table_encoding import Encoding
from fedsim.data.tabular import EMBEDDED_TABLES, embedded, linear_model, read_csv
from fedsim.data.text import read_text, samples_of
from fedsim.errors import FedsimError
from fedsim.installed import installed, load_installed
from fedsim.paths import expanded
from fedsim.plugins import plugin_of
from fedsim.randomness import generator

Floats = tuple[float, ...]

_FOLDER_SIZE = 64  # pixels a side of the images of a folder

_BLOCK = 10_000  # images processed together

_MEDMNIST_FILES = "https://zenodo.org/records/10519652/files"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets of one data set.

    Inputs: images are uint8 (n, C, H, W), C-contiguous. Tables are float32 (n, D), centred and scaled by the training
    rows (except `linear`). Texts are int16 (n, L): characters, numbered as the classes are; the next character is the
    target.

    Targets: classes are int64 (n,) in 0..num_classes - 1. Numbers are float32 (n,) in the units of
    `DataConfig.target_scale`. Several labels per sample are uint8 (n, L) of 0 and 1. Identities are int64 (n,).

    Methods that do not train on samples have replaced `x_train` and `y_train` by their own items, such as bags.
    """

    name: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    num_classes: int
    """Number of model outputs: a logit per class or label, or one number."""
    mean: Floats
    """Mean of the training inputs: per channel for pixels / 255; for a table, 0 per column."""
    std: Floats
    """Standard deviation, as `mean`; 1 for constant inputs."""
    class_names: tuple[str, ...] | None = None
    identity_train: IntArray | None = None
    identity_test: IntArray | None = None
    identity_name: str = "identity"
    """The data's name for the identity, such as the name of a column."""
    truth_test: Array | None = None
    """E[y | x] of the test rows, float32 (n,), if it is known."""
    client_names: tuple[str, ...] | None = None
    """(K,) names of clients 0 to K - 1, if a column of the table names them; then the identities are these clients."""
    input_names: tuple[str, ...] | None = None
    """(D,) names of a table's columns."""
    input_scale: tuple[Floats, Floats] | None = None
    """(centre, unit), (D,) each: x = (the table's number - centre) / unit."""
    target_scale: tuple[float, float] | None = None
    """(centre, unit): y = (the data's number - centre) / unit."""
    reading: str | None = None
    """A sentence about how the files were interpreted."""
    encoding: Encoding | None = None
    """How the columns of a `csv:` table were encoded as numbers."""
    columns: Mapping[str, CodedColumn] = field(default_factory=dict)
    """Further facts about each training image of a folder, by column name."""
    x_unseen: Array | None = None
    """Samples of people that no model is trained or tested on, if the data set has some: the reference of attacks."""
    y_unseen: Array | None = None
    identity_unseen: IntArray | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) of an image, (D,) of a row, (L,) of a text."""
        return self.x_test.shape[1:]

    @property
    def is_text(self) -> bool:
        """Whether inputs are characters, numbered as the classes are."""
        return self.x_test.dtype.kind == "i"

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers."""
        return self.y_test.dtype.kind == "f"

    @property
    def has_classes(self) -> bool:
        """Whether each sample has exactly one class."""
        return self.y_test.dtype.kind == "i"

    @property
    def targets(self) -> Literal["classes", "numbers", "labels"]:
        """The kind of the targets."""
        return "classes" if self.has_classes else "labels" if self.has_several_labels else "numbers"

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample has several labels, each true or false."""
        return self.y_test.ndim == 2

    @cached_property
    def strata_train(self) -> IntArray:
        """Strata of the training items, int64 (n,): their classes, or 0 if they have none."""
        return self.y_train if self.y_train.dtype.kind == "i" else np.zeros(len(self.y_train), np.int64)

    def with_tests(self, rows: IntArray) -> "Dataset":
        """Return the data set with only these rows (k,) of its test set."""
        names = ("x_test", "y_test", "identity_test", "truth_test")
        arrays = {name: array[rows] for name in names if (array := getattr(self, name)) is not None}
        return replace(self, **arrays)

    @cached_property
    def strata_test(self) -> IntArray:
        """Strata of the test samples, as `strata_train`."""
        return self.y_test if self.has_classes else np.zeros(len(self.y_test), np.int64)

    @property
    def num_strata(self) -> int:
        """The number of strata: of classes, or 1 if training items have none."""
        return self.num_classes if self.y_train.dtype.kind == "i" else 1


def load_dataset(config: DataConfig, seed: int) -> Dataset:
    """Read the data set `config.name`. `seed` splits sets without a test set, and draws `linear`.

    Raises
    ------
    FedsimError
        If the data are neither on disk nor downloadable, or a file is malformed.
    """
    dataset = _loaded(config, seed)
    if config.normalise or dataset.x_train.dtype != np.uint8:
        return dataset
    return replace(dataset, mean=(0.0,) * len(dataset.mean), std=(1.0,) * len(dataset.std))


def _loaded(config: DataConfig, seed: int) -> Dataset:
    seed = config.seed_in(seed)
    if (plugin := plugin_of(config.name)) is not None:
        return _dataset(config.name, *own_parts(*plugin, config.test_fraction, seed), scale=config.target_scale)
    name, _, file = config.name.partition(":")
    if name not in DATASETS and (brought := installed("datasets", DATASETS).get(name)) is not None:
        parts = parts_of_function(load_installed(brought, "data.name"), Path(name), config.test_fraction, seed)
        return _dataset(name, *parts, scale=config.target_scale)
    if name == "npz":
        parts = read_npz(Path(file), config.test_fraction, seed)
        return _dataset(config.name, *parts, scale=config.target_scale)
    if name == "csv":
        table = read_csv(Path(file), config.csv, config.test_fraction, seed)
        dataset = _dataset(config.name, table.train, table.test, table.classes, config.target_scale)
        return replace(
            dataset, client_names=table.clients, input_names=table.inputs, reading=table.reading,
            encoding=table.encoding, identity_name=config.csv.client or "identity",
        )  # fmt: skip
    if name == "hf":
        found = read_hf(file, config.hf, config.test_fraction, seed)
        dataset = _dataset(config.name, found.train, found.test, found.classes, config.target_scale)
        return replace(dataset, reading=found.reading, identity_name=found.identity_name or "identity")
    if name in ("text", "play"):
        return _text(config, file)
    if name == "folder":
        return _images(config, list_folder(Path(file), config.folder), _FOLDER_SIZE)
    if name in EMBEDDED_TABLES:
        whole, classes = embedded(name)
        return _dataset(name, *split(whole, config.test_fraction, seed), classes, config.target_scale)
    if name == "linear":
        train, test, truth = linear_model(config.linear, seed)
        mean, std = (0.0,) * config.linear.d, (1.0,) * config.linear.d
        return Dataset(name, train.x, train.y, test.x, test.y, 1, mean, std, truth_test=truth)
    if name == "digits":
        return _dataset(name, *_digits())
    root = expanded(config.root or Path(os.environ.get("FEDSIM_DATA") or "~/.cache/fedsim"))
    if name in ("mufac", "mucac"):
        listing = list_mufac(root, config.mufac) if name == "mufac" else list_mucac(root, config.mucac)
        return _images(config, listing, SIZE)
    archive = root / f"{name}.npz"
    if archive.exists():
        return _dataset(name, *read_npz(archive, config.test_fraction, seed))
    if name not in NAMED:
        raise FedsimError(
            f"data.name: {name} is not in {archive}; give another folder with --data-root or FEDSIM_DATA, or fill this "
            f"one: curl -L -o {archive} {_MEDMNIST_FILES}/{name}.npz"
        )
    return _dataset(name, *read_torchvision(name, archive))


def load_newcomers(config: DataConfig, seed: int, ours: Dataset) -> Dataset:
    """Return the data set `config.name`, `npz:FILE` or `csv:FILE`, as new samples for the known data set `ours`.

    The new samples may have only some of its classes. Inputs are normalised, columns encoded and classes numbered as in
    `ours`.

    Raises
    ------
    FedsimError
        If the file is malformed, or its inputs or targets do not match those of `ours`.
    """
    name, _, file = config.name.partition(":")
    given = Path(file)
    if name == "npz":
        parts = read_npz(given, config.test_fraction, seed, ours.num_classes)
        theirs = _dataset(config.name, *parts, scale=ours.target_scale)
    else:
        numbers = None if ours.is_regression else tuple(map(str, range(ours.num_classes)))
        known = ours.encoding or Encoding(None, ours.class_names or numbers, None)
        table = read_csv(given, config.csv, config.test_fraction, seed, known)
        theirs = _dataset(config.name, table.train, table.test, table.classes, ours.target_scale)
        theirs = replace(theirs, client_names=table.clients)
    if theirs.x_train.shape[1:] != ours.x_train.shape[1:] or theirs.x_train.dtype != ours.x_train.dtype:
        got, want = (f"{d.x_train.dtype} {d.x_train.shape[1:]}" for d in (theirs, ours))
        raise FedsimError(f"{given}: has samples of {got}, and the run's are {want}; give such samples")
    if theirs.is_regression != ours.is_regression:
        got, want = ("numbers" if d.is_regression else "classes" for d in (theirs, ours))
        raise FedsimError(f"{given}: is labelled with {got}, and the run predicts {want}; give such labels")
    x_train, x_test = (_as_known(x, theirs, ours) for x in (theirs.x_train, theirs.x_test))
    return replace(
        theirs, x_train=x_train, x_test=x_test, mean=ours.mean, std=ours.std, num_classes=ours.num_classes,
        class_names=ours.class_names, input_scale=ours.input_scale,
    )  # fmt: skip


def _as_known(x: Array, theirs: Dataset, ours: Dataset) -> Array:
    """Return the rows of a table with the centring and scaling of another data set; images stay as they are."""
    if theirs.input_scale is None or ours.input_scale is None:
        return x
    centre, unit = map(np.asarray, theirs.input_scale)
    our_centre, our_unit = map(np.asarray, ours.input_scale)
    moved: Array = ((x * unit + centre - our_centre) / our_unit).astype(x.dtype)
    return moved


def _dataset(
    name: str, train: Part, test: Part, classes: tuple[str, ...] | None = None, scale: tuple[float, float] | None = None
) -> Dataset:
    known, inputs, scales = NAMED.get(name), [train.x, test.x], None
    if train.x.ndim == 2:
        inputs, scales = _standardised(name, inputs)
        mean, std = (0.0,) * train.x.shape[1], (1.0,) * train.x.shape[1]
    elif known and train.x.shape[1] == len(known.mean):
        mean, std = known.mean, known.std
    else:
        mean, std = _moments(train.x)
    if train.y.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            scale = scale or (float(train.y.mean()), float(train.y.std()) if np.ptp(train.y) else 1.0)
            targets = [((part.y - scale[0]) / scale[1]).astype(np.float32) for part in (train, test)]
        _require_finite(name, *targets)
        num_classes = 1
    else:
        targets, scale = [train.y, test.y], None
        num_classes = train.y.shape[1] if train.y.ndim == 2 else int(train.y.max()) + 1
    class_names = classes or (known.class_names if known and len(known.class_names or ()) == num_classes else None)
    return Dataset(
        name, inputs[0], targets[0], inputs[1], targets[1], num_classes, mean, std, class_names, train.identity,
        test.identity, input_scale=scales, target_scale=scale,
    )  # fmt: skip


def _text(config: DataConfig, file: str) -> Dataset:
    by_client = config.partition.name == "natural"
    if file:
        found = read_text(Path(file), config.text, config.test_fraction, need_clients=by_client)
    else:
        found = samples_of(play(), "play", config.text, config.test_fraction, need_clients=by_client)
    (train, test), people = (found.train, found.test), found.clients
    return Dataset(
        config.name, train.x, train.y, test.x, test.y, len(found.classes), (0.0,), (1.0,), found.classes,
        None if people is None else train.identity, None if people is None else test.identity,
        client_names=people if by_client else None, reading=found.reading,
        identity_name=found.kind.removesuffix("s") or "identity",
        columns={} if people is None or train.identity is None else {"identity": CodedColumn(train.identity, people)},
    )  # fmt: skip


def _images(config: DataConfig, listing: Listing, size: int) -> Dataset:
    found = load_images(listing, config, size)
    train, test, unseen = found.train, found.test, found.unseen
    outputs = len(found.label_names or ())
    dataset = Dataset(
        config.name, train.x, train.y, test.x, test.y, outputs, *found.moments, found.label_names, train.identity,
        test.identity, reading=found.reading, columns=found.columns, identity_name=found.identity_name,
    )  # fmt: skip
    if unseen is None:
        return dataset
    return replace(dataset, x_unseen=unseen.x, y_unseen=unseen.y, identity_unseen=unseen.identity)


def _standardised(name: str, parts: Sequence[Array]) -> tuple[list[Array], tuple[Floats, Floats]]:
    """Return tables float64 (n, D) as float32, centred and scaled by the first of them, and (centre, unit).

    They are centred before the conversion, because float32 cannot resolve seconds in a time stamp.
    """
    train = parts[0]
    with np.errstate(over="ignore", invalid="ignore"):
        centre, unit = train.mean(axis=0), train.std(axis=0)
    constant = train.min(axis=0) == train.max(axis=0)  # rounding of the mean can make their deviation nonzero
    centre, unit = np.where(constant, train[0], centre), np.where(constant | (unit == 0), 1, unit)
    out = [np.empty(part.shape, np.float32) for part in parts]
    with np.errstate(over="ignore", invalid="ignore"):
        for part, scaled in zip(parts, out, strict=True):
            for start in range(0, len(part), _BLOCK):
                scaled[start : start + _BLOCK] = (part[start : start + _BLOCK] - centre) / unit
    _require_finite(name, centre, unit, *out)
    return out, (tuple(centre.tolist()), tuple(unit.tolist()))


def _require_finite(name: str, *arrays: Array) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise FedsimError(f"{name.partition(':')[2] or name}: holds infinite values, or numbers too large to be scaled")


def _moments(x: Array) -> tuple[Floats, Floats]:
    """Return the means and standard deviations of images, (C,) each, per channel for pixels / 255."""
    # Computed from the 256 counts of each channel: exact, and without a float copy of all pixels. In blocks, because
    # bincount converts its input to 64-bit integers.
    counts = np.zeros((x.shape[1], 256), np.int64)
    for start in range(0, len(x), _BLOCK):
        for c in range(x.shape[1]):
            counts[c] += np.bincount(x[start : start + _BLOCK, c].ravel(), minlength=256)
    shares, levels = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ levels
    std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
    std = np.where(std == 0, 1, std)
    return tuple(mean.astype(np.float32).tolist()), tuple(std.astype(np.float32).tolist())


def _digits() -> tuple[Part, Part]:
    """Split the embedded digits into 48 test images per class and 1,317 training images, the same in every run."""
    # This reads the file of sklearn.datasets.load_digits. Importing scikit-learn takes a second, more than a round.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    x = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    y = table[:, -1].astype(np.int64)
    is_test = np.zeros(len(y), dtype=np.bool_)
    for c in range(10):
        is_test[generator(0, "digits-split", c).permutation(np.flatnonzero(y == c))[:48]] = True
    return Part(x[~is_test], y[~is_test]), Part(x[is_test], y[is_test])
