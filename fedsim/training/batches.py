"""The samples of each client's steps: drawn per (round, client, phase), independently of all other clients."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.data.config import Augment
from fedsim.data.transforms import draw_augmentation, no_draws
from fedsim.randomness import generators

Ints = npt.NDArray[np.int64]
Address = tuple[int | Sequence[int], int, int]
"""(run seed, or that of each client's run; round, phase)."""


@dataclass(frozen=True)
class BatchPlan:
    """The batches of N clients over S steps; a client with fewer steps has empty batches at the end."""

    index: Ints
    """(S, N, B) rows of the training set; a batch is padded with a sample of the same client."""
    counts: Ints
    """(S, N) samples in each batch, at most B."""
    draws: npt.NDArray[Any] | None
    """(S, N, B, D) augmentation draws, or None."""

    @property
    def steps(self) -> Ints:
        """(N,) steps of each client."""
        steps: Ints = (self.counts > 0).sum(0)
        return steps


def plan_batches(
    samples: Sequence[Ints],
    clients: Sequence[int],
    address: Address,
    *,
    epochs: int,
    batch_size: int,
    drop_single: bool,
    augment: Augment = "none",
    pad: int = 0,
    steps: int | None = None,
    fresh: bool = False,
    purpose: str = "batches",
) -> BatchPlan:
    """Return the batches of one phase of a round.

    Parameters
    ----------
    samples
        Rows of the training set, for each client.
    clients
        Numbers of the clients.
    address
        Address of the draws.
    drop_single
        Leave out batches of one sample: BatchNorm needs a variance.
    augment, pad
        As for `fedsim.data.transforms.draw_augmentation`.
    steps
        Number of batches for every client with samples, in place of `epochs`; all of one size.
    fresh
        Draw each of these batches from all samples of the client, without replacement within it.
    purpose
        Purpose of the draws.
    """
    rngs = _generators(purpose, clients, address)
    if steps is None:
        index, counts = _passes(samples, rngs, epochs, batch_size, drop_single)
    else:
        index, counts = _steps(samples, rngs, steps, batch_size, drop_single, fresh)
    draws = None
    if augment != "none":
        draws = no_draws(index.shape, augment, pad)
        for lane, rng in enumerate(rngs):
            # A client's draws must not depend on its chunk, whose longest member sets the plan's shape.
            for step, count in enumerate(counts[:, lane].tolist()):
                if count:
                    draws[step, lane, :count] = draw_augmentation(rng, count, augment, pad)
    return BatchPlan(index, counts, draws)


def plan_shared(
    num: int, steps: Ints, clients: Sequence[int], address: Address, *, batch_size: int,
    augment: Augment, pad: int,
) -> BatchPlan:  # fmt: skip
    """Return batches of `num` samples that all clients share: one for each of the `steps` (N,) of each client.

    Address and augmentation are as for `plan_batches`. A client's draws do not depend on other clients' steps.
    """
    seeds, server_round, phase = address
    plans = [
        plan_batches(
            [np.arange(num)], [client], (seed, server_round, phase), epochs=1, batch_size=batch_size, drop_single=False,
            augment=augment, pad=pad, steps=count, purpose="shared batches",
        )
        for seed, client, count in zip(_each(seeds, len(clients)), clients, steps.tolist(), strict=True)
    ]  # fmt: skip
    most, width = int(steps.max(initial=0)), min(batch_size, num)
    index = np.zeros((most, len(plans), width), np.int64)
    counts = np.zeros((most, len(plans)), np.int64)
    draws = None if augment == "none" else no_draws(index.shape, augment, pad)
    for lane, plan in enumerate(plans):
        index[: len(plan.index), lane], counts[: len(plan.index), lane] = plan.index[:, 0], width
        if draws is not None and plan.draws is not None:
            draws[: len(plan.index), lane] = plan.draws[:, 0]
    return BatchPlan(index, counts, draws)


def _each(seeds: int | Sequence[int], count: int) -> Sequence[int]:
    return [seeds] * count if isinstance(seeds, int) else seeds


def _generators(purpose: str, clients: Sequence[int], address: Address) -> list[np.random.Generator]:
    """Return the generator of each client; those of one run are made together."""
    seeds, server_round, phase = address
    made: list[np.random.Generator] = []
    pairs = zip(_each(seeds, len(clients)), clients, strict=True)
    for seed, some in itertools.groupby(pairs, key=operator.itemgetter(0)):
        made += generators(seed, purpose, server_round, [client for _, client in some], phase)
    return made


def _passes(
    samples: Sequence[Ints], rngs: Sequence[np.random.Generator], epochs: int, batch_size: int, drop_single: bool
) -> tuple[Ints, Ints]:
    """Return index and counts of `epochs` shuffled passes; the last batch of a pass may be smaller."""
    sizes = np.array([len(rows) for rows in samples], np.int64)
    used = sizes
    if drop_single:
        used = sizes - (sizes % batch_size == 1) if batch_size > 1 else np.zeros_like(sizes)
    per_epoch = -(-used // batch_size)
    steps, width = int(per_epoch.max(initial=0)) * epochs, int(np.minimum(used, batch_size).max(initial=0))
    index = np.zeros((steps, len(samples), width), np.int64)
    counts = np.zeros((steps, len(samples)), np.int64)
    for lane, (rows, rng, some, length) in enumerate(
        zip(samples, rngs, used.tolist(), per_epoch.tolist(), strict=True)
    ):
        padded = np.full((epochs, length * width), rows[0] if len(rows) else 0, np.int64)
        for mine in padded:
            mine[:some] = rows[rng.permutation(len(rows))[:some]]
        index[: epochs * length, lane] = padded.reshape(epochs * length, width)
        counts[: epochs * length, lane] = width
        if length and (short := length * width - some):
            counts[length - 1 : epochs * length : length, lane] -= short
    return index, counts


def _steps(
    samples: Sequence[Ints],
    rngs: Sequence[np.random.Generator],
    steps: int,
    batch_size: int,
    drop_single: bool,
    fresh: bool,
) -> tuple[Ints, Ints]:
    """Return index and counts of `steps` batches of one size per client.

    They are consecutive parts of shuffled passes; with `fresh`, each batch is drawn independently.
    """
    sizes = [min(batch_size, len(rows)) for rows in samples]
    sizes = [0 if drop_single and size == 1 else size for size in sizes]
    steps = steps if any(sizes) else 0
    index = np.zeros((steps, len(samples), max(sizes, default=0)), np.int64)
    counts = np.tile(np.array(sizes, np.int64), (steps, 1))
    for lane, (rows, rng, size) in enumerate(zip(samples, rngs, sizes, strict=True)):
        if size and steps:
            passes = [rng.permutation(len(rows)) for _ in range(steps if fresh else -(-steps * size // len(rows)))]
            if fresh:
                passes = [some[:size] for some in passes]
            index[:, lane] = rows[0]
            index[:, lane, :size] = rows[np.concatenate(passes)[: steps * size]].reshape(steps, size)
    return index, counts


def joined(plans: Sequence[BatchPlan], *, drop_single: bool, pad: int) -> BatchPlan:
    """Return a plan in which each batch concatenates the corresponding batches of `plans`, in their order."""
    if len(plans) == 1:
        return plans[0]
    steps, lanes = (max(plan.counts.shape[axis] for plan in plans) for axis in (0, 1))
    width = sum(plan.index.shape[2] for plan in plans)
    index, counts = np.zeros((steps, lanes, width), np.int64), np.zeros((steps, lanes), np.int64)
    draws = None
    if drawn := [plan.draws for plan in plans if plan.draws is not None]:
        affine = np.issubdtype(drawn[0].dtype, np.floating)
        draws = no_draws(index.shape, "flip_affine_jitter" if affine else "crop", pad)
    for plan in plans:
        for step, lane in np.argwhere(plan.counts).tolist():
            size = plan.counts[step, lane]
            there = slice(counts[step, lane], counts[step, lane] + size)
            if not counts[step, lane]:
                index[step, lane] = plan.index[step, lane, 0]
            index[step, lane, there] = plan.index[step, lane, :size]
            if draws is not None and plan.draws is not None:
                draws[step, lane, there] = plan.draws[step, lane, :size]
            counts[step, lane] += size
    if drop_single:
        counts[counts == 1] = 0
    some = counts.any(1)
    return BatchPlan(index[some], counts[some], None if draws is None else draws[some])
