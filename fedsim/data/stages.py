"""Classes that arrive over time: which ones a round knows, and which training rows its clients hold."""

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
    """The schedule of a run: spans of rounds, each with classes of its own. Rounds count from 1, stages from 0."""

    blocks: tuple[IntArray, ...]
    """The classes of each stage, ascending; together they are all classes, each once."""
    rounds: int
    """Rounds of a stage; the last one goes on to the end of the run."""
    keep: int
    """How many samples of its past a client may go on training on."""
    lots: npt.NDArray[np.float64]
    """(N,) in [0, 1), one for each training row: clients keep the rows with the lowest."""

    def of(self, server_round: int) -> int:
        """Return the stage of a round."""
        return min(max(server_round - 1, 0) // self.rounds, len(self.blocks) - 1)

    def ends(self, server_round: int) -> bool:
        """Return whether a round is the last one of a stage that another one follows."""
        return self.of(server_round) != self.of(server_round + 1)

    def begun(self, stage: int) -> IntArray:
        """Return the classes that have arrived once `stage` has begun, ascending."""
        return np.sort(np.concatenate(self.blocks[: stage + 1]))

    def seen(self, server_round: int) -> Mask:
        """Return which classes have arrived by a round, (C,)."""
        return np.isin(np.arange(self.num_classes), self.begun(self.of(server_round)))

    @cached_property
    def num_classes(self) -> int:
        """All classes, those to come included."""
        return sum(map(len, self.blocks))

    def cut(self, whole: Partition, y: IntArray, stage: int) -> Partition:
        """Return what clients hold in a stage: its rows of the partition of all stages, and what they kept of others.

        What a client keeps never comes back once it has been given up: rows are ranked by their lots.
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
    """Return the classes of each stage: the classes in a seeded or their own order, cut into equal blocks.

    Blocks differ by at most one class in size.

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
    """Split the rows of `y` (n,) over `clients`, anew for every stage; returns the union over the stages.

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
