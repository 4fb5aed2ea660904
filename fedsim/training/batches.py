"""Which samples a client sees in which step: drawn per (round, client, phase), so no schedule depends on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsim.data.transforms import draw_augmentation
from fedsim.randomness import generator

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of N clients over S steps; a client that is done early has empty batches from there on."""

    index: Ints
    """(S, N, B) rows of the training set; 0 where padded."""
    counts: Ints
    """(S, N) samples in each batch, at most B."""
    draws: Ints | None
    """(S, N, B, 3) augmentation draws, or None."""

    @property
    def steps(self) -> Ints:
        """(N,) steps of each client."""
        steps: Ints = (self.counts > 0).sum(0)
        return steps


def plan_batches(
    samples: Sequence[Ints],
    clients: Sequence[int],
    address: tuple[int, int, int],
    *,
    epochs: int,
    batch_size: int,
    drop_single: bool,
    augment: Literal["none", "crop", "crop_flip"] = "none",
    pad: int = 0,
) -> BatchPlan:
    """Return the batches of one phase of a round.

    Parameters
    ----------
    samples
        Per client, its rows of the training set.
    clients
        Their ids.
    address
        (run seed, round, phase).
    drop_single
        Leave out a batch of one sample: BatchNorm has no variance to divide by there.
    augment, pad
        As for `fedsim.data.transforms.draw_augmentation`.
    """
    seed, server_round, phase = address
    batches: list[list[Ints]] = []
    rngs = [generator(seed, "batches", server_round, client, phase) for client in clients]
    for rows, rng in zip(samples, rngs, strict=True):
        mine = []
        for _ in range(epochs):
            order = rows[rng.permutation(len(rows))]
            mine += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        batches.append([batch for batch in mine if len(batch) > 1 or not drop_single])
    steps = max((len(mine) for mine in batches), default=0)
    width = max((len(batch) for mine in batches for batch in mine), default=0)
    index = np.zeros((steps, len(clients), width), np.int64)
    counts = np.zeros((steps, len(clients)), np.int64)
    for lane, mine in enumerate(batches):
        for step, batch in enumerate(mine):
            index[step, lane, : len(batch)] = batch
            counts[step, lane] = len(batch)
    draws = None
    if augment != "none":
        draws = np.zeros((steps, len(clients), width, 3), np.int64)
        for lane, (mine, rng) in enumerate(zip(batches, rngs, strict=True)):
            # A client's draws must not depend on its chunk, whose longest member sets `steps` and `width`.
            for step, batch in enumerate(mine):
                draws[step, lane, : len(batch)] = draw_augmentation(rng, len(batch), augment, pad)
    return BatchPlan(index, counts, draws)
