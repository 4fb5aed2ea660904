"""Held-out parts of the clients' data: their own test sets, validation sets, and samples without labels."""

import numpy as np
import numpy.typing as npt

from fedsim.data.partition import Partition
from fedsim.randomness import generator

IntArray = npt.NDArray[np.int64]


def matched_counts(partition: Partition, y_train: IntArray, y_test: IntArray) -> IntArray:
    """Return T[k, c] = floor(n_kc / N_train * N_test), (K, C): the test images of class c for client k.

    n_kc is the client's number of training samples of the class, N_train that of all clients (FedLoGe, section 5).
    """
    num_classes = int(max(y_train.max(), y_test.max())) + 1
    return partition.label_counts(y_train, num_classes) * len(y_test) // max(len(partition.indices), 1)


def matched_test(partition: Partition, y_train: IntArray, y_test: IntArray, seed: int) -> Partition:
    """Draw `matched_counts` test images for each client, with its own class frequencies, without replacement.

    Clients draw independently, so they may share images. If a class has too few images, the client gets the whole
    class. Returns rows of the test set.
    """
    due = matched_counts(partition, y_train, y_test)
    pools = [np.flatnonzero(y_test == c) for c in range(due.shape[1])]
    lists = [np.empty(0, dtype=np.int64)] * len(partition)
    for client in np.flatnonzero(due.any(axis=1)):
        rng = generator(seed, "client-test", int(client))
        drawn = [
            rng.choice(pools[c], min(due[client, c], len(pools[c])), replace=False) for c in np.flatnonzero(due[client])
        ]
        lists[client] = np.sort(np.concatenate(drawn))
    return Partition.from_lists(lists)


def split_test(partition: Partition, fraction: float, seed: int) -> tuple[Partition, Partition]:
    """Hold out round(fraction * n_k) samples of each client, but never its last one.

    Returns (train, test), both of training rows.
    """
    return _hold_out(partition, _share(partition, fraction), generator(seed, "client-split"))


def split_validation(partition: Partition, fraction: float, seed: int) -> tuple[Partition, Partition]:
    """Hold out round(fraction * n_k) samples of each client, but never its last one; none if the fraction is 0.

    Returns (train, validation), both of training rows.
    """
    return _hold_out(partition, _share(partition, fraction), generator(seed, "validation-split"))


def split_labels(partition: Partition, fraction: float, least: int, seed: int) -> tuple[Partition, Partition]:
    """Keep the labels of round(fraction * n_k) samples of each client, drawn uniformly, but of at least `least`.

    Returns (labelled, unlabelled), both of training rows.
    """
    labelled = np.maximum(np.rint(fraction * partition.sizes).astype(np.int64), least)
    held = np.maximum(partition.sizes - labelled, 0)
    return _hold_out(partition, held, generator(seed, "label-split"))


def _share(partition: Partition, fraction: float) -> IntArray:
    share: IntArray = np.rint(fraction * partition.sizes).astype(np.int64)
    return np.minimum(share, np.maximum(partition.sizes - 1, 0))


def _hold_out(partition: Partition, held: IntArray, rng: np.random.Generator) -> tuple[Partition, Partition]:
    """Return (the rest, `held[k]` random samples of client k), each in the original order."""
    # One random key per sample, ranked within its client: this shuffles all clients without a loop over them.
    keys = rng.random(len(partition.indices))
    shuffled = np.lexsort((keys, partition.owners))
    is_held = np.zeros(len(shuffled), dtype=np.bool_)
    is_held[shuffled] = np.arange(len(shuffled)) - np.repeat(partition.offsets[:-1], partition.sizes) < np.repeat(
        held, partition.sizes
    )
    return partition.only(~is_held), partition.only(is_held)
