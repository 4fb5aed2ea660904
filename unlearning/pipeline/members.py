"""Trains the models of an ensemble with the simulation alone, one after another or several side by side.

Side by side, the members run their rounds in step, and the copies of a client in all members are trained in one call. A
member then has the batches and cohorts of the run of its seed, and the same weights up to rounding. This is much faster
if one model leaves a core idle, as a small network of one client does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fedsim.config.run import RunConfig, TrainingConfig
from fedsim.data.federation import FederatedData
from fedsim.federated.types import State
from fedsim.flower.records import Tensors
from fedsim.runs.simulation import Simulation
from fedsim.side_by_side import run_side_by_side
from fedsim.training.data import ClientJob, TrainingData
from fedsim.training.joint import Call, JointTrainer
from fedsim.training.trainer import TrainedLanes, Trainer

IntArray = npt.NDArray[np.int64]

_TRIED_RUNS, _TRIED_CLIENTS = 20, 20
_FEW_STEPS, _MANY_STEPS = 2, 40
_QUICK_S = 5e-3
_TOLERANCE = 1e-4  # relative, in float32
_WIDTH = 50  # clients trained at once, if the recipe does not set it


def trained_tensors(config: RunConfig, data: FederatedData) -> Tensors:
    """Return the state dict of a run's final model."""
    return _final(Simulation(config, data=data))


def _final(simulation: Simulation) -> Tensors:
    with contextlib.closing(simulation.engine()) as engine:
        state = simulation.begin()
        while state.round < simulation.config.rounds:
            simulation.step(state, engine)
        return simulation.server.export(state.tensors)


def trained_side_by_side(configs: Sequence[RunConfig], data: Sequence[FederatedData]) -> list[Tensors]:
    """Return the state dicts of the final models of several runs, whose recipes differ only in seeds.

    All `data` have the same data set, in which each run sees its own rows.
    """
    simulations = [Simulation(config, data=own) for config, own in zip(configs, data, strict=True)]
    joint = _joint(simulations[0], configs[0])

    def task(simulation: Simulation, ask: Callable[[Call], TrainedLanes]) -> Tensors:
        torch.set_num_threads(simulation.config.engine.threads)  # a new thread starts with all threads of torch
        simulation.worker.trainer = _Asking(simulation.worker.trainer, ask)
        return _final(simulation)

    return run_side_by_side([partial(task, simulation) for simulation in simulations], joint.answer)


class _Asking(Trainer):
    """Replaces the trainer of a run, and passes its calls on."""

    def __init__(self, own: Trainer, ask: Callable[[Call], TrainedLanes]) -> None:
        super().__init__(own.client, own.data, own.config, own.seed, own.batch_coupling, own.private)
        self._own, self._ask = own, ask

    def train(self, start: State, constants: Tensors, jobs: Sequence[ClientJob], server_round: int) -> TrainedLanes:
        """Return the result of training `jobs`, together with those of other runs."""
        return self._ask(Call(self._own, start, constants, jobs, server_round))


def side_by_side_gain(configs: Sequence[RunConfig], data: Sequence[FederatedData]) -> float:
    """Return how many times faster the clients of many runs train side by side; 0 if this gives other weights.

    It takes two runs, as for `trained_side_by_side`, and trains some steps of their clients in both ways. Dropout,
    noise and tensors that a server sends beside the model are reasons for other weights.
    """
    people = data[0].dataset.identity_test is not None
    if people or any(len(own.unlabelled.indices) for own in data):
        return 0.0  # samples, labels or tests differ between runs
    runs = [Simulation(config, data=own) for config, own in zip(configs, data, strict=True)]
    if runs[0].strategy.prepare is not None:
        return 0.0
    try:
        few = _BothWays(runs, configs[0], _FEW_STEPS)
        if not few.can_be_joined or not few.gives_the_same():
            return 0.0
        alone_s, joint_s = few.seconds()
        if alone_s < _QUICK_S * _FEW_STEPS:  # quick steps are recorded after some calls, and are faster then
            alone_s, joint_s = _BothWays(runs, configs[0], _MANY_STEPS).seconds()
    except RuntimeError:  # an operation without vmap, or too little memory
        return 0.0
    return alone_s / joint_s


class _BothWays:
    """Some steps of each client of two runs, alone and side by side with copies of both."""

    def __init__(self, runs: Sequence[Simulation], recipe: RunConfig, steps: int) -> None:
        training = runs[0].config.training
        tried = training.model_copy(update={"steps": steps})
        self.calls = [_call(run, _like(run, run.worker.train_set, tried)) for run in runs]
        self._joint = _joint(runs[0], recipe, tried)
        self._many = {number: self.calls[number % 2] for number in range(_TRIED_RUNS)}
        self._at_once = training.vectorize == "always"

    @property
    def can_be_joined(self) -> bool:
        return all(call.can_be_joined for call in self.calls)

    def gives_the_same(self) -> bool:
        joined = self._joint.answer(self._many)
        return all(_same(joined[number], call.alone()) for number, call in enumerate(self.calls))

    def seconds(self) -> tuple[float, float]:
        """Return seconds per run: alone, and side by side."""
        alone_s, joint_s = _seconds(self._alone), _seconds(lambda: self._joint.answer(self._many))
        return alone_s / len(self.calls), joint_s / len(self._many)

    def _alone(self) -> None:
        for call in self.calls:
            for jobs in [call.jobs] if self._at_once else [[job] for job in call.jobs]:
                call._replace(jobs=jobs).alone()


def _joint(simulation: Simulation, recipe: RunConfig, config: TrainingConfig | None = None) -> JointTrainer:
    """Return a trainer for the clients of several runs, all with the data set of this one.

    It uses the chunk size of the recipe, because that of a settled configuration is for one model at a time.
    """
    trainer = _like(simulation, simulation.worker.train_set, config)
    return JointTrainer(trainer, recipe.training.chunk or _WIDTH)


def _like(simulation: Simulation, samples: TrainingData, config: TrainingConfig | None = None) -> Trainer:
    """Return a trainer like that of a run."""
    own = simulation.worker.trainer
    return Trainer(own.client, samples, config or own.config, own.seed, own.batch_coupling, own.private)


def _call(simulation: Simulation, trainer: Trainer) -> Call:
    """Return a run's call for its largest clients."""
    worker, config = simulation.worker, simulation.config
    start, sizes = simulation.server.local_start(), worker.data.at(1).sizes
    clients = np.argsort(-sizes, kind="stable")[: min(config.cohort_size, _TRIED_CLIENTS)].tolist()
    jobs = [worker.job(c, worker.client.personal(c, start), 1) for c in clients if sizes[c]]
    return Call(trainer, start, simulation.server.constants(), jobs, 1)


def _same(joined: TrainedLanes, alone: TrainedLanes) -> bool:
    """Return whether all clients have the same weights, up to rounding."""
    rows = np.argsort(alone.lanes)
    return all(
        torch.allclose(value.double(), other[name][rows].double(), rtol=_TOLERANCE, atol=_TOLERANCE)
        for part, other in zip(joined.state, alone.state, strict=True)
        for name, value in part.items()
    )


def _seconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return min(spent[1:])  # the first call includes one-time costs


def with_common_data(data: FederatedData, left_out: Sequence[IntArray]) -> list[FederatedData]:
    """Return the federation without each of `left_out`, on one data set; rows that all of them leave out are blank.

    Other rows that a member leaves out are only missing in its partition.
    """
    everywhere = left_out[0]
    for rows in left_out[1:]:
        everywhere = np.intersect1d(everywhere, rows)
    common = (data.without(everywhere) if len(everywhere) else data).dataset
    return [replace(data.without(rows) if len(rows) else data, dataset=common) for rows in left_out]
