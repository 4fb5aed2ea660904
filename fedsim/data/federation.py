"""Build the data of every client from a data configuration."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsim.data.canaries import Canaries, plant
from fedsim.data.config import DataConfig, Natural
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.drift import with_feature_shift, with_label_noise
from fedsim.data.held_out import matched_test, split_labels, split_test, split_validation
from fedsim.data.listing import CodedColumn
from fedsim.data.longtail import long_tail_indices
from fedsim.data.npz import Array, IntArray
from fedsim.data.partition import Partition, make_partition
from fedsim.data.stages import Stages, class_blocks, make_staged_partition
from fedsim.errors import FedsimError, nearest
from fedsim.randomness import generator


@dataclass(frozen=True, eq=False)
class FederatedData:
    """One shared data set, and the rows of each client."""

    dataset: Dataset
    partition: Partition
    """Labelled training rows of each client, indices into `dataset.x_train`."""
    client_test: Partition
    """Test rows of each client, indices into the arrays that `client_test_source` selects."""
    client_test_source: Literal["test", "train"]
    class_counts: npt.NDArray[np.int64]
    """Labelled training samples of all clients per class, (C,); (1,) without classes."""
    unlabelled: Partition
    """Training rows of each client whose labels are hidden from it; disjoint from `partition`."""
    canaries: Canaries | None = None
    """The positions of the canaries, if any are configured."""
    validation: Partition | None = None
    """Training rows that each client holds out for validation, if any: not used for training or tests."""
    stages: Stages | None = None
    """The schedule of classes; None if all are present from the first round. Partitions hold the rows of all stages."""
    tests: IntArray | None = None
    """Rows of the whole test set that are still in the data set, ascending; None: all of them."""

    def at(self, server_round: int) -> Partition:
        """Return the labelled training rows of each client in a round."""
        return self.partition if self.stages is None else self._by_stage[self.stages.of(server_round)][0]

    def unlabelled_at(self, server_round: int) -> Partition:
        """Return the unlabelled training rows of each client in a round."""
        return self.unlabelled if self.stages is None else self._by_stage[self.stages.of(server_round)][1]

    def seen(self, server_round: int) -> npt.NDArray[np.bool_] | None:
        """Return which classes have arrived by a round, (C,) bool; None in a run without stages."""
        return None if self.stages is None else self.stages.seen(server_round)

    @cached_property
    def _by_stage(self) -> list[tuple[Partition, Partition]]:
        stages, y = self.stages, self.dataset.strata_train
        assert stages is not None
        return [
            (stages.cut(self.partition, y, stage), stages.cut(self.unlabelled, y, stage))
            for stage in range(len(stages.blocks))
        ]

    @cached_property
    def visible_labels(self) -> Array:
        """Training labels as clients know them, (N,): hidden ones are -1, or NaN for numbers."""
        labels = self.dataset.y_train.copy()
        if not len(self.unlabelled.indices):
            return labels
        labels[self.unlabelled.indices] = -1 if labels.dtype.kind == "i" else np.nan
        return labels

    @cached_property
    def content_hash(self) -> str:
        """SHA-256, hexadecimal, of all samples, labels and clients' rows, with stages and hidden labels."""
        dataset, digest = self.dataset, hashlib.sha256()
        arrays = [dataset.x_train, dataset.y_train, dataset.identity_train, dataset.x_test, dataset.y_test]
        arrays += [dataset.x_unseen, dataset.y_unseen]
        parts = [self.partition, *([self.unlabelled] if len(self.unlabelled.indices) else [])]
        parts += [] if self.validation is None else [self.validation]
        schedule: tuple[Array, ...] = ()
        if (stages := self.stages) is not None:
            schedule = (*stages.blocks, np.array([stages.rounds, stages.keep]), stages.lots)
        for array in (*arrays, *(array for part in parts for array in (part.indices, part.offsets)), *schedule):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def shot_counts(self, by: Literal["train", "client_test"]) -> npt.NDArray[np.int64]:
        """Return the class sizes (C,) that decide many, medium and few shot, see `DataConfig.shots`."""
        if by == "train" or not self.dataset.has_classes:
            return self.class_counts
        y = self.dataset.y_test if self.client_test_source == "test" else self.dataset.strata_train
        return np.bincount(y[self.client_test.indices], minlength=self.dataset.num_strata)

    def without(self, rows: npt.NDArray[np.int64]) -> "FederatedData":
        """Return the same federation without these training rows.

        The rows are zeros in the new data set, so that nothing can read them. A client without training rows also loses
        its other rows of the training set: its test rows and its unlabelled rows. The test set stays the same, with one
        exception: it loses the rows of people, or of clients that a column names, who have no training row left.
        """
        partition = self.partition.only(~np.isin(self.partition.indices, rows))
        stays = (partition.sizes > 0) | (self.partition.sizes == 0)
        unlabelled, tests = (part.only(stays[part.owners]) for part in (self.unlabelled, self.client_test))
        counts = np.bincount(self.dataset.strata_train[partition.indices], minlength=self.dataset.num_strata)
        left = replace(
            self,
            partition=partition,
            unlabelled=unlabelled,
            client_test=tests if self.client_test_source == "train" else self.client_test,
            validation=None if self.validation is None else self.validation.only(stays[self.validation.owners]),
            class_counts=counts,
        )
        if self.dataset.identity_test is not None:
            gone = np.setdiff1d(self._people, left._people)
            left = left.with_tests(np.flatnonzero(~np.isin(self.dataset.identity_test, gone)))
        return left.blanked()

    def of_first(self, clients: int) -> "FederatedData":
        """Return the same federation in which only the first `clients` clients have data, see `without`."""
        others = self.partition.indices[self.partition.owners >= clients]
        return self.without(others) if len(others) else self

    @property
    def _people(self) -> IntArray:
        """The identities with a training row at some client, ascending; empty if there are no identities."""
        held, identity = (self.partition, self.unlabelled), self.dataset.identity_train
        rows = np.concatenate([part.indices for part in held])
        return np.empty(0, np.int64) if identity is None else np.unique(identity[rows])

    def with_tests(self, rows: IntArray) -> "FederatedData":
        """Return the same federation with only these rows (k,), ascending, of its test set."""
        if len(rows) == (size := len(self.dataset.y_test)):
            return self
        client_test = self.client_test
        if self.client_test_source == "test":
            client_test = client_test.only(np.isin(client_test.indices, rows))
            client_test = Partition(np.searchsorted(rows, client_test.indices), client_test.offsets)
        tests = np.arange(size) if self.tests is None else self.tests
        return replace(self, dataset=self.dataset.with_tests(rows), client_test=client_test, tests=tests[rows])

    def validated_on(self, validation: Partition) -> "FederatedData":
        """Return the same federation, in which clients are tested on these training rows of theirs."""
        return replace(self, client_test=validation, client_test_source="train")

    def blanked(self) -> "FederatedData":
        """Return the same federation with zeros in all training rows that no client holds."""
        own = [self.partition, self.unlabelled, *([self.client_test] if self.client_test_source == "train" else [])]
        own += [] if self.validation is None else [self.validation]
        held = np.unique(np.concatenate([part.indices for part in own]))
        dataset, identity = self.dataset, self.dataset.identity_train
        return replace(
            self,
            dataset=replace(
                dataset,
                x_train=_blank(dataset.x_train, held),
                y_train=_blank(dataset.y_train, held),
                identity_train=None if identity is None else _blank(identity, held),
                columns={
                    name: CodedColumn(_blank(column.codes, held), column.names)
                    for name, column in dataset.columns.items()
                },
            ),
        )


def _blank(array: Array, held: npt.NDArray[np.int64]) -> Array:
    """Return a copy of an array with zeros in all rows except those held."""
    out = np.zeros(array.shape, array.dtype)
    out[held] = array[held]
    return out


def federate(config: DataConfig, clients: int, seed: int, dataset: Dataset | None = None) -> FederatedData:
    """Load the data set (unless given), cut the long tail, split it over `clients`, and give each client its test set.

    Raises
    ------
    FedsimError
        If the data cannot be loaded, or cannot be split as configured.
    """
    dataset, seed = dataset or load_dataset(config, seed), config.seed_in(seed)
    if not dataset.has_classes:
        _require_no_classes(config, "several labels" if dataset.has_several_labels else "numbers to predict")
    y = dataset.strata_train
    y_test = dataset.strata_test
    rows = long_tail_indices(y, dataset.num_strata, config.imbalance_factor, config.max_per_class, seed)
    identity = None if (owners := owners_of(config, dataset)) is None else owners[rows]
    stages = stages_of(config, dataset, seed)
    if stages is not None:
        split = make_staged_partition(config.partition, y[rows], stages.blocks, clients, seed, identity)
    elif dataset.client_names is not None:
        split = _named_clients(dataset, rows, clients)
    else:
        split = make_partition(config.partition, y[rows], clients, seed, identity)
    partition = Partition(rows[split.indices], split.offsets)
    canaries = None
    if config.canaries is not None:
        if stages is not None:
            raise FedsimError("data.canaries: are not planted in classes that arrive over time; leave out data.stages")
        dataset, partition, canaries = plant(dataset, partition, config.canaries, seed)
        y = dataset.strata_train
    if config.feature_shift is not None:
        dataset = with_feature_shift(dataset, partition, config.feature_shift, seed)
    source: Literal["test", "train"]
    if config.client_test == "split":
        source = "train"
        partition, client_test = split_test(partition, config.client_test_fraction, seed)
    else:
        source = "test"
        client_test = _own_tests(dataset) or matched_test(partition, y, y_test, seed)
    validation = None
    if config.validation_fraction:
        partition, validation = split_validation(partition, config.validation_fraction, seed)
    if config.label_noise is not None:
        dataset = with_label_noise(dataset, partition, config.label_noise, seed)
        y = dataset.strata_train
    partition, unlabelled = split_labels(partition, config.labelled_fraction, config.labelled_min, seed)
    class_counts = np.bincount(y[partition.indices], minlength=dataset.num_strata)
    return FederatedData(
        dataset, partition, client_test, source, class_counts, unlabelled, canaries, validation, stages
    )


def owners_of(config: DataConfig, dataset: Dataset) -> IntArray | None:
    """Return the client of each training row in the natural partition, (n,): identities or a column's codes; else None.

    Raises
    ------
    FedsimError
        If the configured column does not exist.
    """
    by = config.partition.by if isinstance(config.partition, Natural) else "identity"
    if by == "identity":
        return dataset.identity_train
    if by not in dataset.columns:
        raise FedsimError(f"data.partition.by: no column {by!r}; {nearest(by, ['identity', *dataset.columns])}")
    return dataset.columns[by].codes


def clients_by(config: DataConfig, dataset: Dataset) -> str | None:
    """Return the data's name for what the natural partition splits by; None for other partitions."""
    if not isinstance(config.partition, Natural):
        return None
    return dataset.identity_name if config.partition.by == "identity" else config.partition.by


def stages_of(config: DataConfig, dataset: Dataset, seed: int) -> Stages | None:
    """Return the schedule of the classes; None if all are present from the first round."""
    if config.stages is None or config.stages.count == 1:
        return None
    assert config.stages.rounds is not None  # a run's configuration has set it
    seed = config.seed_in(seed)
    blocks = class_blocks(dataset.num_classes, config.stages, seed)
    lots = generator(seed, "kept samples").random(len(dataset.y_train))
    return Stages(blocks, config.stages.rounds, config.stages.keep, lots)


def _named_clients(dataset: Dataset, rows: npt.NDArray[np.int64], clients: int) -> Partition:
    """Return the partition of the training rows `rows`; client k has those of the k-th client name."""
    assert dataset.client_names is not None
    assert dataset.identity_train is not None
    if clients != (named := len(dataset.client_names)):
        raise FedsimError(f"clients: the data name {named}, got {clients}; leave --clients out")
    return Partition.from_owners(dataset.identity_train[rows], clients)


def _own_tests(dataset: Dataset) -> Partition | None:
    """Return the test rows of each client, if the test rows name their client; else None."""
    if dataset.client_names is None or dataset.identity_test is None:
        return None
    return Partition.from_owners(dataset.identity_test, len(dataset.client_names))


def _require_no_classes(config: DataConfig, what: str) -> None:
    """Refuse options that need classes, for data with numbers or several labels."""
    cut = config.partition.name
    if cut not in ("iid", "natural"):
        raise FedsimError(f"data.partition: {cut} splits by class, and {config.name} has {what}; use --partition iid")
    if config.stages is not None and config.stages.count > 1:
        raise FedsimError(f"data.stages: classes arrive in stages, and {config.name} has {what}; leave it out")
    if config.imbalance_factor < 1:
        raise FedsimError(
            f"data.imbalance_factor: a long tail needs classes, and {config.name} has {what}; leave it out"
        )
    if config.labelled_fraction < 1 and what == "several labels":
        raise FedsimError(f"data.labelled_fraction: must be 1, as {config.name} has {what}")
