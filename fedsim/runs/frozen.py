"""The data that remains after a deletion: `federation.npz` in the folder of a run, or of an unlearned model.

Cutting the data anew would need the labels of what is gone, and its inputs for the normalisation. So what is left is
kept as it was cut: row numbers per client, and the constants of the data set.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedsim.atomic import write_atomically
from fedsim.config.resolve import recorded_config, resolve
from fedsim.config.run import RunConfig
from fedsim.data.canaries import Canaries
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.federation import FederatedData, federate, stages_of
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError
from fedsim.paths import expanded
from fedsim.runs.folder import RunFolder
from fedsim.sealed import seal, unseal

FILE = "federation.npz"
_LEDGER = "deletions.json"
_PARTS = ("partition", "client_test", "unlabelled")
_VALIDATION = "validation"
"""Present only if clients hold samples out for validation."""


def freeze(folder: Path, data: FederatedData) -> None:
    """Write which data the model in `folder` may be trained on from now on; `data` is what remains after a deletion."""
    dataset = data.dataset
    arrays = {
        f"{part}_{side}": getattr(getattr(data, part), side)
        for part in (*_PARTS, *([] if data.validation is None else [_VALIDATION]))
        for side in ("indices", "offsets")
    }
    if data.tests is not None:
        arrays["tests"] = data.tests
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, allow_pickle=False, **arrays, mean=np.array(dataset.mean), std=np.array(dataset.std),
        num_classes=np.array(dataset.num_classes), tests_of_train=np.array(data.client_test_source == "train"),
    )  # fmt: skip
    write_atomically(folder / FILE, buffer.getvalue())


def write_partition(folder: Path, data: FederatedData) -> None:
    """Write `partition.npz`: the number of samples of each class that each client has."""
    counts = data.partition.label_counts(data.dataset.strata_train, data.dataset.num_strata)
    with (folder / "partition.npz").open("wb") as file:
        np.savez_compressed(file, label_counts=counts)


class Whole(NamedTuple):
    """A data set before any deletion."""

    dataset: Dataset
    canaries: Canaries | None


def whole_data(config: RunConfig) -> Whole:
    """Return the whole data set of a configuration, with its changes to clients' samples, such as canaries."""
    if not config.data.changes_samples:
        return Whole(load_dataset(config.data, config.seed), None)
    data = federate(config.data, config.clients, config.seed)
    return Whole(data.dataset, data.canaries)


def run_data(folder: Path, config: RunConfig, whole: Whole | None = None) -> FederatedData:
    """Return the data that the model in `folder` may be trained on: all data, or what remains after deletions.

    After a deletion, forgotten rows are not read, except that a file which still contains them is loaded.

    Parameters
    ----------
    whole
        The data set of the configuration, if it is already loaded.

    Raises
    ------
    FedsimError
        If the data cannot be loaded, or the file is damaged.
    """
    file = folder / FILE
    if not file.exists():
        return federate(config.data, config.clients, config.seed)
    dataset, canaries = whole or whole_data(config)
    try:
        with np.load(file, allow_pickle=False) as archive:
            partition, client_test, unlabelled = (
                _partition(archive[f"{part}_indices"], archive[f"{part}_offsets"], config.clients) for part in _PARTS
            )
            validation = None
            if f"{_VALIDATION}_indices" in archive:
                indices, offsets = (archive[f"{_VALIDATION}_{side}"] for side in ("indices", "offsets"))
                validation = _partition(indices, offsets, config.clients)
            if partition.indices.max() >= len(dataset.y_train):
                raise ValueError("rows that the data set does not have")
            dataset = replace(
                dataset,
                mean=tuple(archive["mean"].tolist()),
                std=tuple(archive["std"].tolist()),
                num_classes=int(archive["num_classes"]),
            )
            if (tests := _tests(archive)) is not None:
                dataset = dataset.with_tests(tests)
            data = FederatedData(
                dataset, partition, client_test, "train" if archive["tests_of_train"] else "test",
                np.empty(0, np.int64), unlabelled, canaries, validation,
                stages_of(config.data, dataset, config.seed), tests,
            ).blanked()  # fmt: skip
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise FedsimError(f"{file}: cannot be read ({' '.join(str(error).split())}); restore it") from None
    counts = np.bincount(data.dataset.strata_train[partition.indices], minlength=dataset.num_strata)
    return replace(data, class_counts=counts)


def _tests(archive: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the rows of the test set that remain; None for all."""
    if "tests" not in archive:
        return None
    rows = archive["tests"]
    if rows.ndim != 1 or rows.dtype != np.int64 or (np.diff(rows, prepend=-1) < 1).any():
        raise ValueError("not rows of a test set")
    return rows


class Inherited(NamedTuple):
    """The data for a new run that is based on an older run with deleted samples."""

    data: FederatedData
    folder: Path
    """The folder of the older run, or of an unlearned model."""

    def tell(self, run: Path) -> None:
        """Copy the deletions into the ledger of a new run; the receipts stay with the older run."""
        if (file := self.folder / _LEDGER).exists():
            told = json.loads(unseal(file.read_bytes()))
            write_atomically(run / _LEDGER, seal(json.dumps({**told, "receipts": []}, indent=1)))


def inherited_data(config: RunConfig, like: Path | None = None) -> Inherited | None:
    """Return what a run may be trained on whose start has had samples deleted; None where that binds nothing.

    It binds a run on the same data set: what the start may not know, no model that goes on from it may. The same holds
    for the run `like` whose configuration this one's begins with.

    Raises
    ------
    FedsimError
        If the run would cut that data set in another way, so that nobody could tell which rows are the deleted ones.
    """
    found = [one for folder in (config.start, like) if folder is not None and (one := _inherited(config, folder))]
    if len(found) < 2:
        return found[0] if found else None
    (data, folder), (other, _) = found
    return Inherited(data.without(np.setdiff1d(data.partition.indices, other.partition.indices)), folder)


def _inherited(config: RunConfig, given: Path) -> Inherited | None:
    start = expanded(given).resolve()
    start = start if start.is_dir() else start.parent
    if not (start / FILE).exists():
        return None
    outcome = "unlearn" in RunFolder.open(start).config  # its run is two folders above
    before = resolve(recorded_config(start.parents[1] if outcome else start))
    if config.data.name != before.data.name:
        return None
    cut = [(each.data.model_copy(update={"root": None}), each.clients, each.seed) for each in (config, before)]
    if cut[0] != cut[1]:
        raise FedsimError(
            f"{start} has had samples of {config.data.name} deleted, and another split of it would bring them "
            "back; leave data, clients and seed as they were"
        )
    return Inherited(run_data(start, config), start)


def _partition(indices: np.ndarray, offsets: np.ndarray, clients: int) -> Partition:
    """Return the partition; raise ValueError if it does not fit this number of clients."""
    if indices.ndim != 1 or indices.dtype != np.int64 or offsets.dtype != np.int64 or offsets.shape != (clients + 1,):
        raise ValueError("not a partition of this run's clients")
    if offsets[0] != 0 or offsets[-1] != len(indices) or (np.diff(offsets) < 0).any() or (indices < 0).any():
        raise ValueError("not a partition")
    return Partition(indices, offsets)
