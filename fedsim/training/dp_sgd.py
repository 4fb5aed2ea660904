"""Example-level differential privacy: DP-SGD (arXiv:1607.00133) for clients trained together.

Step of client k, whose n samples make L = ceil(n / batch_size) batches per epoch; q = 1 / L:

    B ~ each sample with probability q        g_i = grad loss(sample i alone)
    g = (sum_{i in B} g_i * min(1, C / ||g_i||_2) + N(0, (z C)^2 I)) / (q n)

The optimiser then takes its step with g. The batches are Poisson samples, as the accountant assumes. Some are empty;
they also cause a step, of noise alone. Gradients are computed for each sample alone, so the norm is bounded for any
loss. A gradient entry that is not finite counts as 0.

If a loss is a sum of G parts that share no parameter, each part's gradient is clipped to C / sqrt(G), so that no part
scales the step of another; together their norm is at most C. Parameters that never leave a client, and do not affect
any that do, are trained without clipping and noise: they are not part of a release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from fedsim.config.run import TrainingConfig
from fedsim.data.transforms import draw_augmentation, no_draws
from fedsim.federated.types import Batch, Extras, Phase, State, per_client
from fedsim.flower.records import Tensors
from fedsim.models.sample_gradients import sample_gradients
from fedsim.privacy.address import Secrets, digest
from fedsim.privacy.config import ExamplePrivacyConfig
from fedsim.privacy.mechanisms import clip_factors, gaussian_like
from fedsim.training.batches import BatchPlan, Ints
from fedsim.training.data import ClientJob, TrainingData
from fedsim.training.optimizers import Optimizer
from fedsim.training.precision import autocast

_GRADIENT_FLOATS = 50_000_000  # at most 200 MB of per-sample gradients at once


def sampling_rate(samples: int, batch_size: int) -> float:
    """Return q, the probability that a given sample of the client is in a batch."""
    return 1 / max(1, -(-samples // batch_size))


def steps_of(phase: Phase, config: TrainingConfig, samples: int) -> int:
    """Return the number of steps of a phase for a client with that many samples; 0 without samples."""
    steps, epochs = phase.steps, phase.epochs
    if steps is None and epochs is None:
        steps = config.steps
    if steps is not None:
        return steps if samples else 0
    return (epochs or config.epochs) * -(-samples // config.batch_size)


def plan_poisson(
    jobs: Sequence[ClientJob], rngs: Sequence[np.random.Generator], *, steps: Sequence[int], batch_size: int,
    data: TrainingData,
) -> BatchPlan:  # fmt: skip
    """Return `steps` Poisson batches of each client, drawn by its generator; some may be empty."""
    batches = []
    for job, rng, number in zip(jobs, rngs, steps, strict=True):
        rate = sampling_rate(len(job.rows), batch_size)
        batches.append([job.rows[rng.random(len(job.rows)) < rate] for _ in range(number)])
    width = max((len(batch) for mine in batches for batch in mine), default=0)
    index = np.zeros((max(steps), len(jobs), max(1, width)), np.int64)
    counts = np.zeros(index.shape[:2], np.int64)
    draws = None if data.augment == "none" else no_draws(index.shape, data.augment, data.pad)
    for lane, (mine, rng) in enumerate(zip(batches, rngs, strict=True)):
        for step, batch in enumerate(mine):
            index[step, lane, : len(batch)] = batch
            counts[step, lane] = len(batch)
            if draws is not None and data.augment != "none":
                draws[step, lane, : len(batch)] = draw_augmentation(rng, len(batch), data.augment, data.pad)
    return BatchPlan(index, counts, draws)


class PrivateSteps:
    """Runs the phases of clients with DP-SGD in place of SGD."""

    def __init__(self, privacy: ExamplePrivacyConfig, config: TrainingConfig, secrets: Secrets) -> None:
        self.privacy, self.config, self.secrets = privacy, config, secrets

    def run(
        self, phase: Phase, number: int, state: State, extras: Extras, jobs: Sequence[ClientJob], server_round: int,
        data: TrainingData,
    ) -> tuple[Tensors, Ints, Ints, Ints]:  # fmt: skip
        """Take the steps of phase `number` and update `state` (clients, ...); longest jobs come first.

        Returns the mean of each metric over the samples seen, without noise; and the numbers of steps, of available
        samples, and of samples in all batches, each (clients,).
        """
        config, device = self.config, data.x.device
        sizes = np.array([len(job.rows) for job in jobs])
        steps = np.array([steps_of(phase, config, size) for size in sizes.tolist()])
        addresses = draw_addresses(jobs, extras, server_round, number, data)
        coins = [self.secrets.coins("poisson batches", *address) for address in addresses]
        plan = plan_poisson(jobs, coins, steps=steps.tolist(), batch_size=config.batch_size, data=data)
        trained = [name for name in state.params if phase.trains(name)]
        optimizer = Optimizer(config, {name: state.params[name] for name in trained}, server_round)
        floats = sum(state.params[name][0].numel() for name in trained) * plan.index.shape[2]
        clipped_sums = clipped_gradient_sums(
            phase, extras, self.privacy.max_grad_norm, lanes=_GRADIENT_FLOATS // floats
        )
        noises = [self.secrets.noise("example-level noise", *address, device=device) for address in addresses]
        expected = torch.tensor(
            [size * sampling_rate(size, config.batch_size) for size in sizes.tolist()], device=device
        )
        counts = torch.from_numpy(plan.counts).to(device, torch.float32)
        totals: Tensors = {}
        for step in range(len(plan.index)):
            active = int((steps > step).sum())  # a prefix, as jobs are sorted by length
            index, draws = (None if a is None else torch.from_numpy(a[step, :active]) for a in (plan.index, plan.draws))
            assert index is not None
            x, y = data.batch(index.to(device), None if draws is None else draws.to(device))
            params, buffers = ({n: value[:active] for n, value in part.items()} for part in state)
            moving = {name: params.pop(name) for name in trained}
            mask = (torch.arange(x.shape[1], device=device) < counts[step, :active, None]).float()
            with autocast(config, device):
                sums, metrics = clipped_sums(moving, params, buffers, x, y, mask)
            grads = [
                (total if phase.stays(name) else total + self._noise(total, noises[:active]))
                / per_client(expected[:active].to(total.dtype), total)
                for name, total in sums.items()
            ]
            slots = {slot: {n: value[:active] for n, value in held.items()} for slot, held in optimizer.state.items()}
            optimizer.step(moving, grads, slots, step)
            for name, value in metrics.items():
                totals.setdefault(name, torch.zeros_like(counts[0]))[:active] += value
        means = {name: total / counts.sum(0) for name, total in totals.items()}  # NaN where no sample was drawn
        return means, steps, sizes, plan.counts.sum(0)

    def _noise(self, total: Tensor, noises: Sequence[torch.Generator | None]) -> Tensor:
        """Return draws of N(0, (z C)^2) for a sum of gradients (clients, ...), from each client's own generator."""
        std = self.privacy.noise * self.privacy.max_grad_norm
        return torch.stack([gaussian_like(value, std, noise) for value, noise in zip(total, noises, strict=True)])


Address = tuple[int, int, int, int]
"""(round, client, phase, digest)."""


def draw_addresses(
    jobs: Sequence[ClientJob], extras: Extras, server_round: int, number: int, data: TrainingData
) -> list[Address]:
    """Return the address of each client's batches and noise in phase `number`, from all of its inputs."""
    shared = digest(extras.start, extras.constants) if not extras.stacked else None
    addresses = []
    for lane, job in enumerate(jobs):
        start = digest(*extras.of(lane)[:2]) if shared is None else shared
        rows = torch.from_numpy(job.rows).to(data.x.device)
        own = digest(start, *job.personal, data.x.flatten(1).index_select(0, rows), data.y[rows])
        addresses.append((server_round, job.client, number, own))
    return addresses


ClippedSums = Callable[[Tensors, Tensors, Tensors, Tensor, Tensor, Tensor], tuple[Tensors, Tensors]]
"""(trained params, other params, buffers, x, y, mask) -> (sums of clipped gradients, sums of metrics), stacked."""


def clipped_gradient_sums(phase: Phase, extras: Extras, bound: float, *, lanes: int) -> ClippedSums:
    """Return a function that clips each sample's gradient, over all trained tensors, and sums them per client.

    It processes at most `lanes` clients at once, and at least one.
    """

    def loss(moving: Tensors, fixed: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensors]:
        value, metrics = phase.loss({**moving, **fixed}, buffers, extras, Batch(x[None], y[None]))
        return value, {"loss": value.detach()} | {name: metric.detach() for name, metric in metrics.items()}

    gradients = sample_gradients(loss, shared=2, has_aux=True)

    def client(
        moving: Tensors, fixed: Tensors, buffers: Tensors, x: Tensor, y: Tensor, mask: Tensor
    ) -> tuple[Tensors, Tensors]:
        grads, metrics = gradients(moving, fixed, buffers, x, y)
        grads = {name: g.nan_to_num(0.0, 0.0, 0.0) for name, g in grads.items()}
        factors = _factors(phase, grads, bound)
        sums = {name: torch.tensordot((factors[name] * mask).to(g.dtype), g, dims=1) for name, g in grads.items()}
        return sums, {name: (values * mask).sum() for name, values in metrics.items()}

    return vmap(client, randomness="different", chunk_size=max(1, lanes))


def _factors(phase: Phase, grads: Tensors, bound: float) -> Tensors:
    """Return the clipping factors (B,) of each tensor's gradients (B, ...): per objective, and `bound` over all."""
    of = {name: phase.objective(name) for name in grads if not phase.stays(name)}
    factors = {name: torch.ones(len(g), device=g.device) for name, g in grads.items() if name not in of}
    objectives = dict.fromkeys(of.values())
    for objective in objectives:
        names = [name for name in of if of[name] == objective]
        norms = torch.stack([grads[name].reshape(len(grads[name]), -1).square().sum(1) for name in names]).sum(0).sqrt()
        factors |= dict.fromkeys(names, clip_factors(norms, bound / len(objectives) ** 0.5))
    return factors
