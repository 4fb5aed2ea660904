"""Canaries: training samples that a model can only get right by memorising them, so they measure memorisation.

There are three kinds. All are planted before training, and their rows are known:
backdoor      every sample of a client has a trigger, a white square in the lower right corner, and one label;
mislabelled   samples drawn at random have a wrong label, uniformly one of the others;
duplicated    samples drawn at random are turned into negatives, 1 - x, and repeated at their client.
A model that never saw them is wrong on most of them; a model that memorised them is right. The trigger's success is
measured on test images of other classes with the trigger.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedsim.data.config import CanariesConfig
from fedsim.data.datasets import Dataset
from fedsim.data.listing import CodedColumn
from fedsim.data.npz import Array, IntArray
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError
from fedsim.randomness import generator

KINDS = ("backdoor", "mislabelled", "duplicated")


@dataclass(frozen=True, eq=False)
class Canaries:
    """The positions of the canaries."""

    rows: dict[str, IntArray]
    """Training rows of each of `KINDS`, ascending; empty if none were planted."""
    target: int
    """The label of samples with the trigger."""


def plant(
    dataset: Dataset, partition: Partition, config: CanariesConfig, seed: int
) -> tuple[Dataset, Partition, Canaries]:
    """Return the data set and the partition with canaries, and the canaries' rows. The inputs are not changed.

    Raises
    ------
    FedsimError
        If the data are not images with classes, or a configured client or class does not exist.
    """
    _require_possible(dataset, partition, config)
    x, y = dataset.x_train.copy(), dataset.y_train.copy()
    rng = generator(seed, "canaries")
    owners = np.full(len(y), -1)
    owners[partition.indices] = partition.owners
    backdoor = np.sort(np.flatnonzero(np.isin(owners, config.backdoor_clients)))
    others = np.sort(np.setdiff1d(partition.indices, backdoor))
    drawn = rng.permutation(others)
    num_wrong = round(config.mislabelled * len(others))
    wrong, negatives = np.sort(drawn[:num_wrong]), np.sort(drawn[num_wrong : num_wrong + config.duplicated])
    x[backdoor], y[backdoor] = with_trigger(x[backdoor]), config.backdoor_target
    y[wrong] = (y[wrong] + rng.integers(1, dataset.num_classes, len(wrong))) % dataset.num_classes
    x[negatives] = 255 - x[negatives]
    copied = np.repeat(negatives, config.copies - 1)
    new = np.arange(len(y), len(y) + len(copied))
    lists = [np.concatenate([partition[client], new[owners[copied] == client]]) for client in range(len(partition))]
    identity = dataset.identity_train
    planted = replace(
        dataset,
        x_train=np.concatenate([x, x[copied]]),
        y_train=np.concatenate([y, y[copied]]),
        identity_train=None if identity is None else np.concatenate([identity, identity[copied]]),
        columns={
            name: CodedColumn(np.concatenate([column.codes, column.codes[copied]]), column.names)
            for name, column in dataset.columns.items()
        },
    )
    rows = {"backdoor": backdoor, "mislabelled": wrong, "duplicated": np.concatenate([negatives, new])}
    return planted, Partition.from_lists(lists), Canaries(rows, config.backdoor_target)


def with_trigger(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a copy of images (n, C, H, W) with the trigger, a white square of max(1, H // 4) pixels a side."""
    side = max(1, images.shape[2] // 4)
    out = images.copy()
    out[:, :, -side:, -side:] = 255
    return out


def _require_possible(dataset: Dataset, partition: Partition, config: CanariesConfig) -> None:
    images: Array = dataset.x_train
    if images.ndim != 4 or not dataset.has_classes:
        raise FedsimError(f"data.canaries: are planted in images with classes, not in {dataset.name}; leave it out")
    for client in config.backdoor_clients:
        if not 0 <= client < len(partition):
            raise FedsimError(
                f"data.canaries.backdoor_clients: no client {client}; there are 0 to {len(partition) - 1}"
            )
    if config.backdoor_target >= dataset.num_classes:
        raise FedsimError(
            f"data.canaries.backdoor_target: no class {config.backdoor_target}; "
            f"there are 0 to {dataset.num_classes - 1}"
        )
