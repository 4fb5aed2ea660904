"""The SGD loop: trains a chunk's clients one after another, or all at once with `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from fedsim.config.run import TrainingConfig
from fedsim.federated.types import Audit, Batch, Extras, Phase, State
from fedsim.flower.records import Tensors
from fedsim.randomness import torch_draws, torch_seed
from fedsim.training.batches import Ints
from fedsim.training.data import ClientJob, TrainingData
from fedsim.training.dp_sgd import PrivateSteps
from fedsim.training.optimizers import Optimizer, clip
from fedsim.training.precision import autocast
from fedsim.training.step_cache import Recorder, Step
from fedsim.training.streams import Annotated, Feed, Feeder

_BLOCK_FLOATS = 4_000_000  # 16 MB of normalised samples read ahead

Rows = slice | Ints
"""Selects some clients of a chunk; a slice gives a view."""


class TrainedLanes(NamedTuple):
    """The result of clients that were trained together; tensors are stacked, (clients, ...)."""

    lanes: list[int]
    """The position in `jobs` of each row."""
    state: State
    extras: Extras
    """The extras that their losses could read."""
    metrics: Tensors
    steps: Tensor
    """(clients,) float32 numbers of steps in all phases."""
    samples: Tensor
    """(clients, phases) float64 on the CPU: numbers of different samples in each phase."""
    drawn: Tensor
    """(clients, phases) float64 on the CPU: total numbers of samples in the batches."""
    audits: list[tuple[Audit, Sequence[Annotated | None]]]
    """Audits, each with the annotations per client that it measures."""


class Trains(Protocol):
    """Defines how clients train: a client half, or a part of one."""

    def phases(self) -> Sequence[Phase]:
        """Return the phases of a client's round, in order."""


class Trainer:
    """Trains the clients of a chunk; each takes exactly its own steps, independently of the others."""

    def __init__(
        self,
        client: Trains,
        data: TrainingData,
        config: TrainingConfig,
        seed: int,
        batch_coupling: bool,
        private: PrivateSteps | None = None,
    ) -> None:
        self.client, self.data, self.config, self.seed = client, data, config, seed
        self.batch_coupling, self.private = batch_coupling, private
        self.recorder = Recorder()

    def train(self, start: State, constants: Tensors, jobs: Sequence[ClientJob], server_round: int) -> TrainedLanes:
        """Train `jobs` together from the global state `start`, or each from its own; arguments are not changed."""
        # Longest first: in any step the active clients are then a prefix, which is a view without a copy.
        lanes = sorted(range(len(jobs)), key=lambda lane: -len(jobs[lane].rows))
        jobs = [jobs[lane] for lane in lanes]
        own = [start.merged(job.start) for job in jobs if job.start is not None]
        began = _stack({}, [state.params for state in own]) if own else start.params
        round_number = torch.tensor(float(server_round), device=self.data.x.device)
        extras = Extras(began, constants, bool(own), round_number)
        begun = [
            state.merged(job.personal) for state, job in zip(own or [State({}, {})] * len(jobs), jobs, strict=True)
        ]
        shared = State({}, {}) if own else start
        state = State(*(_stack(part, [each[i] for each in begun]) for i, part in enumerate(shared)))
        metrics: Tensors = {}
        feeder = Feeder(self.data, self.config, self.seed, self.batch_coupling, jobs)
        counted: list[list[Ints]] = []
        audits: list[tuple[Audit, Sequence[Annotated | None]]] = []
        # Dropout draws from torch's global generator: it is seeded by these clients' address, and restored afterwards.
        with torch_draws(torch_seed(self.seed, "dropout", server_round, jobs[0].client), self.data.x.device):
            for number, phase in enumerate(self.client.phases()):
                if self.private is not None:
                    measured, *taken = self.private.run(phase, number, state, extras, jobs, server_round, self.data)
                else:
                    feed = feeder.feed(phase, server_round, number, state, extras)
                    measured = self._run_phase(phase, state, extras, feed, server_round)
                    taken = [feed.plan.steps, feed.samples, feed.plan.counts.sum(0)]
                    if phase.audit is not None:
                        audits.append((phase.audit, feed.annotated))
                for name, value in measured.items():
                    metrics[name] = value.where(~value.isnan(), metrics[name]) if name in metrics else value
                counted.append(taken)
        steps, samples, drawn = (torch.from_numpy(np.stack(each, 1)).double() for each in zip(*counted, strict=True))
        return TrainedLanes(
            lanes, state, extras, metrics, steps.sum(1).to(self.data.x.device, torch.float32), samples, drawn, audits
        )

    def _run_phase(self, phase: Phase, state: State, extras: Extras, feed: Feed, server_round: int) -> Tensors:
        """Take the steps of one phase and update `state`; return the mean of each metric, (clients,), NaN if none."""
        device, plan = self.data.x.device, feed.plan
        trained = [name for name in state.params if phase.trains(name)]
        optimizer = Optimizer(self.config, {name: state.params[name] for name in trained}, server_round)
        together = plan.counts.shape[1] > 1
        step_fn = self._stacked(phase, extras) if together else _single(phase, extras.of(0), self.config.channels_last)
        counts = torch.from_numpy(plan.counts).to(device, torch.float32)
        views: dict[int, tuple[Tensors, ...]] = {}  # views of the first clients, by their number

        def take(rows: Rows) -> tuple[Tensors, ...]:
            if isinstance(rows, slice) and rows.stop in views:
                return views[rows.stop]
            params = _take(state.params, rows)
            slots = [_take(values, rows) for values in optimizer.state.values()]
            begun = _take(extras.start, rows) if extras.stacked else extras.start
            taken = ({name: params.pop(name) for name in trained}, params, _take(state.buffers, rows), begun, *slots)
            if isinstance(rows, slice):
                views[rows.stop] = taken
            return taken

        sums: Tensors = {}
        for step, (sizes, batch) in enumerate(zip(plan.counts, self._batches(feed), strict=True)):
            for rows, width in _groups(sizes, exact=self.batch_coupling):
                mask = None
                if sizes[rows].min() < width:
                    mask = (torch.arange(width, device=device) < counts[step, rows, None]).float()
                moving, fixed, buffers, begun, *slots = take(rows)
                with autocast(self.config, device):
                    grads, measured = step_fn(moving, fixed, buffers, begun, _cut(batch, rows, width, mask))
                gradients = list(grads.values())
                if self.config.clip_norm is not None:
                    gradients = clip(gradients, self.config.clip_norm, [phase.objective(name) for name in grads])
                optimizer.step(moving, gradients, dict(zip(optimizer.state, slots, strict=True)), step)
                del grads, gradients  # two steps' gradients are never held at once
                if not isinstance(rows, slice):  # the rows were copied out
                    _put(state.params, moving, rows)
                    _put(state.buffers, buffers, rows)
                    for whole, values in zip(optimizer.state.values(), slots, strict=True):
                        _put(whole, values, rows)
                for name, value in measured.items():
                    total = sums.setdefault(name, torch.zeros_like(counts[0]))
                    total[rows] += value * counts[step, rows]
        return {name: total / counts.sum(0) for name, total in sums.items()}

    def _stacked(self, phase: Phase, extras: Extras) -> StepFn:
        """Return the step of several clients at once."""
        lanes = _lanes(phase, own_start=extras.stacked)

        def step(moving: Tensors, fixed: Tensors, buffers: Tensors, begun: Tensors, batch: Batch) -> Gradients:
            there = {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor)}
            about = {"server_round": extras.server_round}
            given = (moving, fixed, buffers, begun, extras.constants, about, there, batch.notes)
            grads, measured = self.recorder((phase.loss, phase.declares), lanes, *given)
            return grads, measured

        return step

    def _batches(self, feed: Feed) -> Iterator[Batch]:
        """Yield the inputs of each step, every tensor (clients, B, ...); several steps are read at once."""
        plan = feed.plan
        index = torch.from_numpy(plan.index).to(self.data.x.device)
        draws = None if plan.draws is None else torch.from_numpy(plan.draws).to(self.data.x.device)
        floats = plan.index[0].size * self.data.x[0].numel() if len(plan.index) else 1
        if feed.shared is not None and len(plan.index):
            floats += feed.shared.plan.index[0].size * self.data.x[0].numel()
        block = max(1, _BLOCK_FLOATS // floats)
        for start in range(0, len(index), block):
            some = slice(start, start + block)
            x, y = self.data.batch(index[some], None if draws is None else draws[some])
            notes = feed.noted(some)
            shared = None if feed.shared is None else feed.shared.batches(some)
            for step, strong in enumerate(feed.strong_views(self.data, range(len(plan.index))[some])):
                own = {name: value[step] for name, value in notes.items()}
                yield Batch(x[step], y[step], None, strong, own, None if shared is None else shared[step])


def _stack(shared: Tensors, own: Sequence[Tensors]) -> Tensors:
    stacked = {name: value.expand(len(own), *value.shape).clone() for name, value in shared.items()}
    return stacked | {name: torch.stack([tensors[name] for tensors in own]) for name in own[0]}


def _take(tensors: Tensors, rows: Rows) -> Tensors:
    return {name: value[rows] for name, value in tensors.items()}


def _put(tensors: Tensors, values: Tensors, rows: Rows) -> None:
    for name, value in values.items():
        tensors[name][rows] = value


def _cut(batch: Batch, rows: Rows, width: int, mask: Tensor | None) -> Batch:
    """Return some clients' batches without the padding that all of them have."""
    strong = None if batch.strong is None else batch.strong[rows, :width]
    notes = {name: value[rows, :width] for name, value in batch.notes.items()}
    shared = None if batch.shared is None else batch.shared[rows]
    return Batch(batch.x[rows, :width], batch.y[rows, :width], mask, strong, notes, shared)


Gradients = tuple[Tensors, Tensors]
"""(gradients, loss and metrics), all (clients, ...)."""

StepFn = Callable[[Tensors, Tensors, Tensors, Tensors, Batch], Gradients]
"""(trained params, other params, buffers, start, batch) -> gradients; all (clients, ...), but for a shared start."""


def _lanes(phase: Phase, *, own_start: bool) -> Step:
    """Return the gradients of several clients.

    They are given (trained params, other params, buffers, start, constants, about the round, batch, notes). Constants
    and round are the same for all of them, and so is the start unless each has its own; everything else is stacked,
    (clients, ...).
    """

    def loss(
        moving: Tensors, fixed: Tensors, buffers: Tensors, start: Tensors, constants: Tensors, about: Any, batch: Any,
        notes: Any,
    ) -> tuple[Tensor, Tensors]:  # fmt: skip
        own = Batch(**batch, notes=notes)
        value, metrics = phase.loss({**moving, **fixed}, buffers, Extras(start, constants, **about), own)
        return value, {"loss": value.detach()} | {name: metric.detach() for name, metric in metrics.items()}

    in_dims = (0, 0, 0, 0 if own_start else None, None, None, 0, 0)
    losses = vmap(loss, in_dims=in_dims, randomness="different")

    def step(moving: Tensors, *given: Tensors) -> tuple[Tensors, Tensors]:
        leaves = {name: value.detach().requires_grad_() for name, value in moving.items()}
        values, measured = losses(leaves, *given)
        # A lane's loss depends on its own parameters alone. torch.func.grad does the same in more of Python, and its
        # first call imports torch's compiler, which takes longer than many a run.
        grads = torch.autograd.grad(values.sum(), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True)), measured

    return step


def _single(phase: Phase, extras: Extras, channels_last: bool) -> StepFn:
    """Call the loss of one client directly: vmap over a single lane would only cost time."""

    def one(tensors: Tensors) -> Tensors:
        return {name: value[0] for name, value in tensors.items()}

    def images(x: Tensor) -> Tensor:
        return x[0].contiguous(memory_format=torch.channels_last) if channels_last and x.dim() == 5 else x[0]

    def step(moving: Tensors, fixed: Tensors, buffers: Tensors, begun: Tensors, batch: Batch) -> Gradients:
        leaves = {name: value.requires_grad_() for name, value in one(moving).items()}
        strong = None if batch.strong is None else images(batch.strong)
        shared = None if batch.shared is None else images(batch.shared)
        own = Batch(images(batch.x), batch.y[0], None, strong, one(batch.notes), shared)
        loss, metrics = phase.loss(leaves | one(fixed), one(buffers), extras, own)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        measured = {name: value.detach()[None] for name, value in ({"loss": loss} | metrics).items()}
        return {name: gradient[None] for name, gradient in zip(leaves, grads, strict=True)}, measured

    return step


def _groups(counts: Ints, *, exact: bool) -> Iterator[tuple[Rows, int]]:
    """Yield (rows, batch width) of the clients that step together; `counts` (N,) is 0 for a client without a step.

    Padding does not change a mean over samples, so one group is enough, unless a sample's output depends on the rest
    of its batch (`exact`): then only batches of equal size are processed together.
    """
    if counts.min() == counts.max():
        yield slice(len(counts)), int(counts[0])
        return
    sizes = np.unique(counts[counts > 0])[::-1]
    if not exact or len(sizes) == 1:
        active = np.flatnonzero(counts)
        prefix = active[-1] + 1 == len(active)
        yield slice(len(active)) if prefix else active, int(sizes[0])
    else:
        for size in sizes:
            yield np.flatnonzero(counts == size), int(size)
