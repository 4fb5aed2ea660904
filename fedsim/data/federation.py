"""From a data configuration to the data of every client."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsim.data.client_test import matched_test, split_test
from fedsim.data.config import DataConfig
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.longtail import long_tail_indices
from fedsim.data.partition import Partition, make_partition


@dataclass(frozen=True, eq=False)
class FederatedData:
    """One shared data set and who holds what of it."""

    dataset: Dataset
    partition: Partition
    """Training rows of each client, indices into `dataset.x_train`."""
    client_test: Partition
    """Test rows of each client, indices into the arrays that `client_test_source` names."""
    client_test_source: Literal["test", "train"]
    class_counts: npt.NDArray[np.int64]
    """Training samples of all clients by class, (C,)."""


def federate(config: DataConfig, clients: int, seed: int) -> FederatedData:
    """Load the data set, cut the long tail, split it over `clients` and give each its test set.

    Raises
    ------
    FedsimError
        If the data cannot be had, or cannot be split as asked.
    """
    dataset = load_dataset(config, seed)
    y = dataset.y_train
    rows = long_tail_indices(y, dataset.num_classes, config.imbalance_factor, config.max_per_class, seed)
    identity = None if dataset.identity_train is None else dataset.identity_train[rows]
    split = make_partition(config.partition, y[rows], clients, seed, identity)
    partition = Partition(rows[split.indices], split.offsets)
    source: Literal["test", "train"]
    if config.client_test == "split":
        source = "train"
        partition, client_test = split_test(partition, config.client_test_fraction, seed)
    else:
        source = "test"
        client_test = matched_test(partition, y, dataset.y_test, seed)
    class_counts = np.bincount(y[partition.indices], minlength=dataset.num_classes)
    return FederatedData(dataset, partition, client_test, source, class_counts)
