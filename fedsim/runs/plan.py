"""A preview of a run without running it: sizes, traffic, privacy, and an estimate of its time.

Two rounds of a few clients are run in this process and discarded. Nothing is written.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Message

from fedsim.config.resolve import resolve, user_settings
from fedsim.config.run import RunConfig
from fedsim.engine.inprocess import InProcessEngine
from fedsim.errors import RunFailed
from fedsim.federated.exchange import conduct
from fedsim.federated.sampling import draw_cohort
from fedsim.flower.records import to_record, to_tensors
from fedsim.privacy.guarantees import Guarantee, guarantees
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState
from fedsim.runs.traffic import Traffic

_TRIED_CLIENTS = 50
_TRIED_ROUNDS = 2


@dataclass(frozen=True)
class Plan:
    """The preview of a run."""

    config: RunConfig
    """The resolved configuration, with all automatic choices made."""
    choices: Mapping[str, str]
    """The automatic choices with their reasons, and warnings."""
    samples: Sequence[int]
    """Number of labelled training samples of each client."""
    test_samples: int
    """Number of samples of the global test set."""
    parameters: int
    """Number of values in the global model."""
    bytes_down: float
    """Bytes sent to all clients of a round."""
    bytes_up: float
    """Bytes sent by all clients of a round."""
    guarantees: Sequence[Guarantee]
    """Privacy guarantees at the end; empty if nothing is protected."""
    seconds: float
    """Estimated seconds with one worker of this machine, evaluations included."""
    memory_bytes: int
    """Peak memory of this process so far."""
    gpu_bytes: int
    """Peak memory of its GPU; 0 without a GPU."""


def plan(*layers: Mapping[str, Any]) -> Plan:
    """Return what the configuration that the layers make is going to be, see `fedsim.config.resolve`.

    Raises
    ------
    FedsimError
        If it is bad; what a run would refuse at its start is refused here.
    """
    simulation = Simulation(resolve(user_settings(), *layers))
    config, tried = simulation.config, _Trial()
    chunk = config.training.chunk
    assert chunk is not None  # choose_vectorize has set it
    with contextlib.closing(InProcessEngine(simulation.worker, config.clients, chunk)) as engine:
        state = simulation.begin()
        initial = sum(value.numel() for value in state.tensors.values())
        for server_round in range(1, min(_TRIED_ROUNDS, config.rounds) + 1):
            tried = _try_round(simulation, engine, state, server_round)
        evaluation = _evaluation_seconds(simulation, engine, state)
    rounds, cohort = config.rounds, config.cohort_size
    gpu = simulation.worker.device.type == "cuda"
    return Plan(
        config=config, choices=simulation.choices, samples=simulation.data.partition.sizes.tolist(),
        test_samples=len(simulation.data.dataset.y_test), parameters=initial,
        bytes_down=tried.traffic.down / tried.clients * cohort, bytes_up=tried.traffic.up / tried.clients * cohort,
        guarantees=_guarantees(simulation, state),
        seconds=rounds * (tried.server_s + tried.clients_s / tried.clients * cohort)
        + -(-rounds // config.eval_every) * evaluation,
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        gpu_bytes=torch.cuda.max_memory_allocated(simulation.worker.device) if gpu else 0,
    )  # fmt: skip


@dataclass
class _Trial:
    """Measurements of a round with a few clients."""

    clients: int = 1
    traffic: Traffic = field(default_factory=Traffic)
    clients_s: float = 0.0
    server_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def of(self, wave: Sequence[Message], engine: InProcessEngine) -> Iterator[Message]:
        """Yield the replies of a wave and count them."""
        self.traffic.begin_wave(wave)
        begun = time.perf_counter()
        for reply in engine.stream(wave):
            self.clients_s += time.perf_counter() - begun
            if reply.has_error():
                self.failures.append((reply.error.reason or "").split("\n", 1)[0])
            else:
                self.traffic.heard(reply.content)
            yield reply
            begun = time.perf_counter()


def _try_round(simulation: Simulation, engine: InProcessEngine, state: RunState, server_round: int) -> _Trial:
    """Run a round with a part of its cohort; afterwards `state` contains the new model, if there is one."""
    config, server = simulation.config, simulation.server
    cohort = draw_cohort(config, simulation.data.at(server_round).sizes, server_round)
    if not cohort:  # a Poisson cohort can be empty
        cohort = np.flatnonzero(simulation.sizes)[:1].tolist()
    engine.cohort = cohort[: min(config.cohort_size, _TRIED_CLIENTS)]
    tried, begun = _Trial(clients=len(engine.cohort)), time.perf_counter()
    start = server.prepare_round(server_round, state.tensors, simulation.progress.working)
    exchange = server.exchange(server_round, to_record(start), ConfigRecord(), engine)
    aggregated, _ = conduct(exchange, lambda wave: tried.of(wave, engine))
    tried.server_s = max(time.perf_counter() - begun - tried.clients_s, 0.0)
    if aggregated is None:
        raise RunFailed(f"the clients that were tried fail: {next(iter(tried.failures), 'none answered')}")
    state.tensors = to_tensors(aggregated, simulation.worker.device)
    engine.states.commit()
    return tried


def _evaluation_seconds(simulation: Simulation, engine: InProcessEngine, state: RunState) -> float:
    begun = time.perf_counter()
    simulation.scores(state.tensors)
    return time.perf_counter() - begun + _clients_evaluation_seconds(simulation, engine, state)


def _clients_evaluation_seconds(simulation: Simulation, engine: InProcessEngine, state: RunState) -> float:
    config, which = simulation.config, simulation.config.eval_clients
    if which == "none" or (which == "auto" and not simulation.strategy.client.personalised):
        return 0.0
    able = np.flatnonzero(simulation.sizes).tolist()
    begun = time.perf_counter()
    simulation.evaluate(1, state.tensors, engine, tried := able[:_TRIED_CLIENTS], [])
    count = config.clients if which != "seen" else min(config.clients, config.rounds * config.cohort_size)
    return (time.perf_counter() - begun) / max(len(tried), 1) * count


def _guarantees(simulation: Simulation, state: RunState) -> list[Guarantee]:
    """Return the guarantees after all rounds, with the cohorts that the run will draw."""
    config = simulation.config
    if not any(release.mechanism != "none" for part in state.ledger.parts for release in part.releases):
        return []
    for server_round in range(1, config.rounds + 1):
        state.ledger.add_round(draw_cohort(config, simulation.data.at(server_round).sizes, server_round))
    return guarantees(state.ledger, with_replaced=False)
