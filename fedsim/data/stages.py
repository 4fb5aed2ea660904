"""Classes that arrive over time: the classes of a round, and the training rows of its clients."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedsim.data.config import PartitionConfig, StagesConfig
from fedsim.data.partition import Partition, make_partition
from fedsim.errors import FedsimError
from fedsim.randomness import generator

IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Stages:
    """The schedule of a run: spans of rounds, each with its own classes. Rounds count from 1, stages from 0."""

    blocks: tuple[IntArray, ...]
    """The classes of each stage, ascending; each class is in exactly one stage."""
    rounds: int
    """Rounds of a stage; the last stage continues to the end of the run."""
    keep: int
    """Number of earlier samples that a client may keep for training."""
    lots: npt.NDArray[np.float64]
    """(N,) in [0, 1), a random number per training row: clients keep the rows with the lowest ones."""

    def of(self, server_round: int) -> int:
        """Return the stage of a round."""
        return min(max(server_round - 1, 0) // self.rounds, len(self.blocks) - 1)

    def ends(self, server_round: int) -> bool:
        """Return whether a round is the last one of a stage that is not the last stage."""
        return self.of(server_round) != self.of(server_round + 1)

    def begun(self, stage: int) -> IntArray:
        """Return the classes that have arrived when `stage` begins, ascending."""
        return np.sort(np.concatenate(self.blocks[: stage + 1]))

    def seen(self, server_round: int) -> Mask:
        """Return which classes have arrived by a round, (C,) bool."""
        return np.isin(np.arange(self.num_classes), self.begun(self.of(server_round)))

    @cached_property
    def num_classes(self) -> int:
        """Number of all classes, including later ones."""
        return sum(map(len, self.blocks))

    def cut(self, whole: Partition, y: IntArray, stage: int) -> Partition:
        """Return the rows of each client in a stage: those of the stage's classes, and earlier rows that it keeps.

        A row that a client has given up never comes back, because rows are ranked by their fixed lots.
        """
        labels = y[whole.indices]
        held = np.isin(labels, self.blocks[stage])
        if self.keep and stage:
            past = np.flatnonzero(np.isin(labels, self.begun(stage - 1)))
            owners = whole.owners[past]
            order = np.lexsort((self.lots[whole.indices[past]], owners))
            starts = np.searchsorted(owners[order], owners[order])
            held[past[order[np.arange(len(order)) - starts < self.keep]]] = True
        return whole.only(held)


def class_blocks(num_classes: int, config: StagesConfig, seed: int) -> tuple[IntArray, ...]:
    """Return the classes of each stage: all classes, in seeded or numerical order, cut into blocks.

    Block sizes differ by at most one class.

    Raises
    ------
    FedsimError
        If there are more stages than classes.
    """
    if config.count > num_classes:
        raise FedsimError(f"data.stages.count: must be from 1 to {num_classes}, the classes, got {config.count}")
    order = np.arange(num_classes)
    if config.order == "seeded":
        order = generator(seed, "class order").permutation(num_classes)
    return tuple(np.sort(block) for block in np.array_split(order, config.count))


def make_staged_partition(
    config: PartitionConfig, y: IntArray, blocks: tuple[IntArray, ...], clients: int, seed: int,
    identity: IntArray | None = None,
) -> Partition:  # fmt: skip
    """Split the rows of `y` (n,) over `clients`, separately for every stage; return the union over the stages.

    Raises
    ------
    FedsimError
        If the rows of a stage cannot be split.
    """
    if config.name == "sites":
        raise FedsimError("data.partition: sites have one class mix for the whole run; use another with data.stages")
    owners = np.full(len(y), -1)
    for stage, classes in enumerate(blocks):
        rows = np.flatnonzero(np.isin(y, classes))
        people = None if identity is None else identity[rows]
        part = make_partition(config, y[rows], clients, seed, people, address=(stage,))
        owners[rows[part.indices]] = part.owners
    return Partition.from_owners(owners, clients)
