"""Federations of a few clients and a small network on some of the digits: a round takes milliseconds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.config.run import RunConfig
from fedsim.engine.base import Engine
from fedsim.federated import registry
from fedsim.federated.registry import load_strategy
from fedsim.federated.sampling import sample_cohort
from fedsim.flower.records import Tensors, to_tensors
from fedsim.models.build import has_batch_coupling
from fedsim.randomness import generator
from fedsim.runs.checkpoint import Checkpoint
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState
from fedsim.training.batches import plan_batches

BASE: dict[str, Any] = {
    "clients": 4, "rounds": 3, "eval_every": 100,
    "data": {"max_per_class": 12, "imbalance_factor": 0.3},
    "model": {"name": "mlp", "norm": "batch", "hidden": [32]},
    "training": {"epochs": 1, "batch_size": 8, "lr": 0.1, "momentum": 0.5, "vectorize": "never"},
}  # fmt: skip


_GENERATED = {
    "model.norm": "none", "strategy.descriptor": 4, "strategy.hidden": 8, "strategy.blocks": 1,
    "training.steps": 3,
}  # fmt: skip
_QUICK_IMAGES = {
    "model.norm": "batch", "strategy.synthetic_batch": 4,
    "strategy.synthesis": {
        "images": 16, "rounds": 2, "batch": 8, "steps": 2, "warmup": 0, "critic_steps": 1, "noise_dim": 4, "width": 2,
    },
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {"pefll": _GENERATED, "pfedhn": _GENERATED, "target": _QUICK_IMAGES}
"""What methods that cannot do with BASE, or take long with it, have in its place."""


class Run(NamedTuple):
    simulation: Simulation
    engine: Engine
    state: RunState

    def advance(self, rounds: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for _ in range(rounds):
            metrics = self.simulation.step(self.state, self.engine)
        return metrics

    @property
    def tensors(self) -> Tensors:
        return self.state.tensors

    def personal(self, client: int) -> Tensors:
        """What the client keeps, parameters and buffers."""
        records = self.engine.states[client].array_records
        return {name: value for part in records.values() for name, value in to_tensors(part).items()}


def configure(strategy: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    return resolve(BASE, {"strategy.name": strategy}, OWN.get(strategy, {}), overrides or {})


def begin(strategy: str, overrides: Mapping[str, Any] | None = None, checkpoint: Checkpoint | None = None) -> Run:
    simulation = Simulation(configure(strategy, overrides))
    engine = simulation.engine()
    state = simulation.begin() if checkpoint is None else simulation.restore(checkpoint, engine)
    return Run(simulation, engine, state)


def finished(strategy: str, overrides: Mapping[str, Any] | None = None) -> Run:
    run = begin(strategy, overrides)
    run.advance(run.simulation.config.rounds)
    return run


@contextmanager
def halves(strategy: str, **changed: Any) -> Iterator[None]:
    """Put other halves (`client=`, `server=`) into a registered method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._strategies, strategy, replace(load_strategy(strategy), **changed))
        yield


def names_sent(run: Run) -> set[str]:
    """Advance one round; return the names of all arrays that clients sent."""
    names: set[str] = set()
    aggregate = run.simulation.server.aggregate_train

    def spy(server_round: int, replies: Any) -> Any:
        kept = list(replies)
        for reply in kept:
            for record in reply.content.array_records.values():
                names.update(record)
        return aggregate(server_round, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.simulation.server, "aggregate_train", spy)
        run.advance(1)
    return names


def assert_same_bits(got: Tensors, expected: Tensors) -> None:
    assert got.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(got[name], expected[name])]
    assert not different


def cohort_of(run: Run, server_round: int) -> list[int]:
    """Return the clients that a round draws."""
    config = run.simulation.config
    rng = generator(config.seed, "cohort", server_round)
    return list(sample_cohort(rng, run.simulation.data.partition.sizes, config.cohort_size))


def assert_cohorts_agree(strategy: str, overrides: Mapping[str, Any] | None = None) -> None:
    """Train the clients of a chunk at once and one after another; compare models, servers and clients' states."""
    chunk = {"training.chunk": 4, **(overrides or {})}
    one_by_one, together = (finished(strategy, {**chunk, "training.vectorize": c}) for c in ("never", "always"))
    pairs = [(one_by_one.tensors, together.tensors), (one_by_one.state.server[0], together.state.server[0])]
    pairs += [(one_by_one.personal(client), together.personal(client)) for client in range(4)]
    for expected, got in pairs:
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)


def batches_of(run: Run, client: int, server_round: int, phase: int = 0, epochs: int | None = None) -> Iterator[Any]:
    """Yield the (x, y) that a client sees in a phase of a round, as one pass over the plan."""
    config, data = run.simulation.config, run.simulation.worker.train_set
    coupled = has_batch_coupling(run.simulation.new_model(config))
    plan = plan_batches(
        [run.simulation.data.partition[client]], [client], (config.seed, server_round, phase),
        epochs=epochs or config.training.epochs, batch_size=config.training.batch_size, drop_single=coupled,
    )  # fmt: skip
    for index, count in zip(plan.index[:, 0], plan.counts[:, 0], strict=True):
        yield data.batch(torch.from_numpy(index[:count]), None)
