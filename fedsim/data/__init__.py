"""Data sets, and their distribution over clients. Importing this package imports no torch; `transforms` does."""

from fedsim.data.config import DataConfig, PartitionConfig, available_datasets, partition_names
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.federation import FederatedData, federate
from fedsim.data.held_out import matched_counts, matched_test, split_labels, split_test
from fedsim.data.longtail import long_tail_counts, long_tail_indices, shot_groups
from fedsim.data.partition import Partition, make_partition

__all__ = [
    "DataConfig",
    "Dataset",
    "FederatedData",
    "Partition",
    "PartitionConfig",
    "available_datasets",
    "federate",
    "load_dataset",
    "long_tail_counts",
    "long_tail_indices",
    "make_partition",
    "matched_counts",
    "matched_test",
    "partition_names",
    "shot_groups",
    "split_labels",
    "split_test",
]
