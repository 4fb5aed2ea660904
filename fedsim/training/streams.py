"""The training data of a phase: samples of one or several streams, their annotations, and strong views of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.config.run import TrainingConfig
from fedsim.data.config import StrongView
from fedsim.data.transforms import strong_view
from fedsim.federated.types import Annotation, Extras, Phase, State, Stream
from fedsim.flower.records import Tensors
from fedsim.randomness import torch_draws, torch_seed
from fedsim.training.batches import BatchPlan, Ints, joined, plan_batches, plan_shared
from fedsim.training.data import ClientJob, TrainingData
from fedsim.training.precision import autocast

_ANNOTATED_TOGETHER = 500  # samples


class Annotated(NamedTuple):
    """Annotations of a client's samples by a phase; `rows` (n,) are rows of the training set."""

    rows: Ints
    annotation: Annotation


class Shared(NamedTuple):
    """Samples that were sent to all clients, and batches of them to use beside each client's own batches."""

    data: TrainingData
    plan: BatchPlan

    def batches(self, steps: slice) -> Tensor:
        """Return the shared batches of some steps, (steps, clients, B', ...)."""
        index, draws = (
            None if array is None else torch.from_numpy(array[steps]).to(self.data.x.device)
            for array in (self.plan.index, self.plan.draws)
        )
        assert index is not None
        return self.data.batch(index, draws)[0]


class Feed(NamedTuple):
    """The batches of one phase."""

    plan: BatchPlan
    samples: Ints
    """(clients,) number of different samples in the phase."""
    strong: StrongView | None
    seeds: Sequence[int]
    """(clients,) seeds of the strong views."""
    places: Ints | None = None
    """(S, N, B) positions of the plan's samples in `notes`."""
    notes: Tensors = {}  # noqa: RUF012 -- never written to
    """{name: (M, ...)}."""
    annotated: Sequence[Annotated | None] = ()
    """Annotations per client; None for a client without samples."""
    shared: Shared | None = None
    """Samples that were sent to all clients."""

    def noted(self, steps: slice) -> Tensors:
        """Return the annotations of the samples of some steps, {name: (steps, clients, B, ...)}."""
        if self.places is None:
            return {}
        return {
            name: value[torch.from_numpy(self.places[steps]).to(value.device)] for name, value in self.notes.items()
        }

    def strong_views(self, data: TrainingData, steps: range) -> Iterator[Tensor | None]:
        """Yield the strong view of each step's samples, (clients, B, ...)."""
        for step in steps:
            if self.strong is None:
                yield None
                continue
            index, counts = self.plan.index[step], self.plan.counts[step]
            out = torch.zeros((*index.shape, *data.x.shape[1:]), dtype=data.dtype, device=data.x.device)
            for lane in np.flatnonzero(counts).tolist():
                x = data.x[torch.from_numpy(index[lane, : counts[lane]]).to(data.x.device)]
                with torch_draws(self.seeds[lane] + step):
                    out[lane, : counts[lane]] = strong_view(x, data.mean, data.std, self.strong).to(data.dtype)
            yield out


class Feeder:
    """Creates the feeds of a chunk's clients."""

    def __init__(
        self, data: TrainingData, config: TrainingConfig, seed: int, batch_coupling: bool, jobs: Sequence[ClientJob]
    ) -> None:
        self.data, self.config, self.batch_coupling, self.jobs = data, config, batch_coupling, jobs
        self.seeds = [seed if job.seed is None else job.seed for job in jobs]

    def feed(self, phase: Phase, server_round: int, number: int, state: State, extras: Extras) -> Feed:
        """Return the feed of phase `number`; `state` is the clients' state at its start, stacked (clients, ...)."""
        feed = self._own(phase, server_round, number, state, extras)
        samples = extras.constants.get(phase.shared or "")
        if samples is None:
            return feed
        plan = plan_shared(
            len(samples), feed.plan.steps, [job.client for job in self.jobs], (self.seeds, server_round, number),
            batch_size=phase.shared_batch, augment=self.data.augment, pad=self.data.pad,
        )  # fmt: skip
        data = replace(self.data, x=samples, y=samples.new_zeros(len(samples)))
        return feed._replace(shared=Shared(data, plan))

    def _own(self, phase: Phase, server_round: int, number: int, state: State, extras: Extras) -> Feed:
        seeds = []
        if phase.strong is not None:
            seeds = [
                torch_seed(seed, "strong view", server_round, job.client, number) // 2
                for seed, job in zip(self.seeds, self.jobs, strict=True)
            ]
        samples = [[job.stream(stream) for job in self.jobs] for stream in phase.streams]
        if phase.annotate is None:
            plans = [
                self._plan(phase, server_round, number, *pair) for pair in zip(samples, phase.streams, strict=True)
            ]
            plan = joined(plans, drop_single=self.batch_coupling, pad=self.data.pad)
            sizes = np.sum([[len(rows) for rows in part] for part in samples], axis=0)
            return Feed(plan, sizes, phase.strong, seeds)
        (rows,) = samples
        annotated = [self._annotate(phase, rows[lane], state, extras, lane) for lane in range(len(rows))]
        annotations = [each.annotation if each else _concatenate([]) for each in annotated]
        whole = _concatenate([annotation for annotation in annotations if len(annotation.keep)])
        positions = np.split(np.arange(len(whole.keep)), np.cumsum([len(some) for some in rows])[:-1])
        if phase.leave_out:
            kept = [annotation.keep.cpu().numpy() for annotation in annotations]
            positions = [some[keep] for some, keep in zip(positions, kept, strict=True)]
        # The plan uses positions in the notes, so that each sample finds its annotation.
        plan = self._plan(phase, server_round, number, positions, phase.streams[0])
        notes = whole.notes if phase.leave_out else {**whole.notes, "keep": whole.keep}
        num_kept = np.array([int(annotation.keep.sum()) for annotation in annotations])
        pool = np.concatenate(rows)
        return Feed(replace(plan, index=pool[plan.index]), num_kept, phase.strong, seeds, plan.index, notes, annotated)

    def _plan(self, phase: Phase, server_round: int, number: int, samples: Sequence[Ints], stream: Stream) -> BatchPlan:
        steps, epochs = phase.steps, phase.epochs
        if steps is None and epochs is None:
            steps = self.config.steps
        labelled = stream == "labelled"
        return plan_batches(
            samples,
            [job.client for job in self.jobs],
            (self.seeds, server_round, number),
            epochs=epochs or self.config.epochs,
            batch_size=self.config.batch_size,
            drop_single=self.batch_coupling and len(phase.streams) == 1,
            augment=self.data.augment if labelled else "none",
            pad=self.data.pad,
            steps=steps,
            fresh=phase.fresh,
            purpose="batches" if labelled else f"{stream} batches",
        )

    @torch.no_grad()
    def _annotate(self, phase: Phase, rows: Ints, state: State, extras: Extras, lane: int) -> Annotated | None:
        if not len(rows):
            return None
        assert phase.annotate is not None
        params, buffers = ({name: value[lane] for name, value in part.items()} for part in state)
        parts = []
        for some in torch.split(torch.from_numpy(rows).to(self.data.x.device), _ANNOTATED_TOGETHER):
            with autocast(self.config, self.data.x.device):
                parts.append(phase.annotate(params, buffers, extras.of(lane), self.data.batch(some, None)[0]))
        return Annotated(rows, _concatenate(parts))


def _concatenate(parts: Sequence[Annotation]) -> Annotation:
    if not parts:
        return Annotation(torch.empty(0, dtype=torch.bool), {})
    notes = {name: torch.cat([part.notes[name] for part in parts]) for name in parts[0].notes}
    return Annotation(torch.cat([part.keep for part in parts]), notes)
