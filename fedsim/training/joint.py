"""Trains the clients of several runs of one recipe in one call: the runs differ in seeds, data and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fedsim.federated.types import Extras, State
from fedsim.flower.records import Tensors
from fedsim.training.data import ClientJob
from fedsim.training.trainer import TrainedLanes, Trainer


class Call(NamedTuple):
    """The arguments of a run's call of its trainer; see `Trainer.train`."""

    trainer: Trainer
    start: State
    constants: Tensors
    jobs: Sequence[ClientJob]
    server_round: int

    @property
    def can_be_joined(self) -> bool:
        """Whether its clients can be trained beside those of other runs.

        This is not possible if the runs differ in more than the model: in other tensors from the server, or in noise.
        """
        sent = self.constants or any(job.start is not None for job in self.jobs)
        return not sent and self.trainer.private is None and all(p.audit is None for p in self.trainer.client.phases())

    def alone(self) -> TrainedLanes:
        """Return the result of the run's own trainer."""
        return self.trainer.train(self.start, self.constants, self.jobs, self.server_round)


class JointTrainer:
    """Answers the calls of several runs with one trainer, `width` clients at once.

    The copies of one client, which have the same number of samples, are trained beside each other. Batches and cohorts
    are exactly those of the runs; weights differ by rounding. Dropout draws other numbers than in the runs.

    Parameters
    ----------
    trainer
        The trainer of one of the runs, on data that has the rows of all of them.
    width
        Number of clients trained at once.
    """

    def __init__(self, trainer: Trainer, width: int) -> None:
        self._trainer, self._width = trainer, width

    def answer(self, calls: Mapping[int, Call]) -> dict[int, TrainedLanes]:
        """Return {run: result} for the waiting calls of the earliest round."""
        first = min(call.server_round for call in calls.values())
        now = {run: call for run, call in calls.items() if call.server_round == first}
        joined = [run for run, call in now.items() if call.can_be_joined]
        alone = {run: call.alone() for run, call in now.items() if run not in joined}
        return alone | (self._joint({run: now[run] for run in joined}, first) if joined else {})

    def _joint(self, calls: Mapping[int, Call], server_round: int) -> dict[int, TrainedLanes]:
        lanes = sorted(
            (job.client, run, place) for run, call in calls.items() for place, job in enumerate(call.jobs)
        )  # fmt: skip
        parts: dict[int, list[TrainedLanes]] = {run: [] for run in calls}
        for begin in range(0, len(lanes), self._width):
            some = lanes[begin : begin + self._width]
            jobs = [
                calls[run].jobs[place]._replace(start=calls[run].start, seed=calls[run].trainer.seed)
                for _, run, place in some
            ]
            trained = self._trainer.train(State({}, {}), {}, jobs, server_round)
            of = [some[lane] for lane in trained.lanes]
            for run in {run for _, run, _ in some}:
                rows = [row for row, lane in enumerate(of) if lane[1] == run]
                parts[run].append(_rows(trained, rows, [of[row][2] for row in rows]))
        number = torch.tensor(float(server_round), device=self._trainer.data.x.device)
        return {
            run: _together(parts[run])._replace(extras=Extras(call.start.params, call.constants, False, number))
            for run, call in calls.items()
        }


def _rows(trained: TrainedLanes, rows: Sequence[int], lanes: list[int]) -> TrainedLanes:
    """Return some of the clients that were trained together, with their positions in their own run's jobs."""
    state = State(*({name: value[rows] for name, value in part.items()} for part in trained.state))
    metrics = {name: value[rows] for name, value in trained.metrics.items()}
    return TrainedLanes(
        lanes, state, trained.extras, metrics, trained.steps[rows], trained.samples[rows], trained.drawn[rows], []
    )  # fmt: skip


def _together(parts: Sequence[TrainedLanes]) -> TrainedLanes:
    """Return the clients of one run, in the order of their jobs."""
    order = np.argsort([lane for part in parts for lane in part.lanes])

    def cat(values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(values))[torch.from_numpy(order).to(values[0].device)]

    def cats(tensors: Sequence[Tensors]) -> Tensors:
        return {name: cat([each[name] for each in tensors]) for name in tensors[0]}

    first = parts[0]
    return TrainedLanes(
        list(range(len(order))),
        State(cats([part.state.params for part in parts]), cats([part.state.buffers for part in parts])),
        first.extras,
        cats([part.metrics for part in parts]),
        cat([part.steps for part in parts]),
        cat([part.samples for part in parts]),
        cat([part.drawn for part in parts]),
        [],
    )
