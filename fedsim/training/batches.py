"""Which samples a client sees in which step: drawn per (round, client, phase), so no schedule depends on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsim.data.transforms import draw_augmentation
from fedsim.randomness import generators

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
    rngs = generators(seed, "batches", server_round, clients, phase)
    sizes = np.array([len(rows) for rows in samples], np.int64)
    used = sizes
    if drop_single:
        used = sizes - (sizes % batch_size == 1) if batch_size > 1 else np.zeros_like(sizes)
    per_epoch = -(-used // batch_size)
    steps, width = int(per_epoch.max(initial=0)) * epochs, int(np.minimum(used, batch_size).max(initial=0))
    index = np.zeros((steps, len(clients), width), np.int64)
    counts = np.zeros((steps, len(clients)), np.int64)
    for lane, (rows, rng, some, length) in enumerate(
        zip(samples, rngs, used.tolist(), per_epoch.tolist(), strict=True)
    ):
        padded = np.zeros((epochs, length * width), np.int64)
        for mine in padded:
            mine[:some] = rows[rng.permutation(len(rows))[:some]]
        index[: epochs * length, lane] = padded.reshape(epochs * length, width)
        counts[: epochs * length, lane] = width
        if length and (short := length * width - some):
            counts[length - 1 : epochs * length : length, lane] -= short
    draws = None
    if augment != "none":
        draws = np.zeros((steps, len(clients), width, 3), np.int64)
        for lane, rng in enumerate(rngs):
            # A client's draws must not depend on its chunk, whose longest member sets `steps` and `width`.
            for step, count in enumerate(counts[:, lane].tolist()):
                if count:
                    draws[step, lane, :count] = draw_augmentation(rng, count, augment, pad)
    return BatchPlan(index, counts, draws)
