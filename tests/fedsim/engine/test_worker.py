"""What a worker computes is the same, bit for bit, in every engine, whatever dies meanwhile."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import tests.fedsim.engine.fakes as fakes
from fedsim.config.resolve import resolve
from fedsim.config.run import HistoryConfig
from fedsim.engine.base import Engine
from fedsim.engine.worker import Worker
from fedsim.runs.history import HistoryWriter
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState
from tests.fedsim.engine.kinds import ENGINES, RAY_LEFTOVERS, MakeEngine, marked
from tests.fedsim.federated.asking import AskingClient, AskingServer, PatchedWorker
from tests.strategies.small_runs import assert_same_bits, halves

pytestmark = RAY_LEFTOVERS


def simulation(strategy: str, vectorize: str, **more: Any) -> Simulation:
    return Simulation(
        resolve(
            {
                "strategy": strategy, "clients": 12, "cohort": 7, "rounds": 3, "eval_every": 3,
                "training": {"vectorize": vectorize, "chunk": 3, "epochs": 1, "clip_norm": 1.0},
                "data.partition": "dirichlet",
            },
            more,
        )
    )  # fmt: skip


def run_rounds(sim: Simulation, engine: Engine, history: HistoryWriter | None = None) -> str:
    """Return the hash of all that a run ends with: model, server, clients' states and metrics."""
    state = sim.begin()
    for _ in range(3):
        sim.step(state, engine, [] if history is None else [history])
    return fingerprint(state, engine)


def fingerprint(state: RunState, engine: Engine) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.tensors.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for client in engine.states.committed():
        digest.update(repr((client, engine.states[client])).encode())
        for record in engine.states[client].array_records.values():
            for array in record.values():
                digest.update(array.data)
    for line in state.metrics:
        timeless = {name: value for name, value in line["metrics"].items() if name != "train/clients_per_s"}
        digest.update(repr(timeless).encode())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def undisturbed() -> Callable[[str, str], str]:
    """Return a function from (strategy, vectorize mode) to the fingerprint of the run in this process."""
    known: dict[tuple[str, str], str] = {}

    def get(strategy: str, vectorize: str) -> str:
        if (strategy, vectorize) not in known:
            sim = simulation(strategy, vectorize)
            known[strategy, vectorize] = run_rounds(sim, sim.engine())
        return known[strategy, vectorize]

    return get


STRATEGIES = ("fedavg", "fedloge", "fedlabel", "fedld", "scaffold")
ON_FORKS = ("fedavg", "fedloge")
SLOW_ON_RAY = {(strategy, "always") for strategy in STRATEGIES if strategy != "fedloge"} | {("fedlabel", "never")}


def _cases() -> Iterator[Any]:
    for engine, strategy, vectorize in product(ENGINES, STRATEGIES, ("never", "always")):
        if engine == "local-2" and strategy not in ON_FORKS:
            continue
        case = marked((engine, strategy, vectorize))
        if engine == "ray-2" and (strategy, vectorize) in SLOW_ON_RAY:
            case = pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow])
        yield case


@pytest.mark.parametrize(("make_engine", "strategy", "vectorize"), list(_cases()), indirect=["make_engine"])
def test_same_bits_on_every_engine(make_engine: MakeEngine, undisturbed, strategy: str, vectorize: str) -> None:
    sim = simulation(strategy, vectorize)
    engine = make_engine(partial(Worker, sim.config, sim.data), 12, 3)
    assert run_rounds(sim, engine) == undisturbed(strategy, vectorize)


def test_several_waves_come_to_the_same_bits_on_workers(pool_engine: MakeEngine) -> None:
    with halves("fedavg", client=AskingClient, server=AskingServer):
        sims = [simulation("fedavg", "always") for _ in range(2)]
    here = run_rounds(sims[0], sims[0].engine())
    workers = pool_engine(partial(PatchedWorker, sims[1].config, sims[1].data), 12, 3, num_workers=2)
    assert run_rounds(sims[1], workers) == here
    answers, expected = (sim.server.answers for sim in reversed(sims))
    assert answers.keys() == expected.keys()
    for key, answer in expected.items():
        assert_same_bits(answers[key], answer)


def test_models_made_for_single_clients_come_to_the_same_bits_on_workers(pool_engine: MakeEngine) -> None:
    options = {
        "strategy.descriptor": 4,
        "strategy.hidden": 8,
        "training.steps": 3,
        "model": {"name": "cnn", "norm": "none"},
    }
    sims = [simulation("pefll", "always", **options, eval_clients="all") for _ in range(2)]
    here = run_rounds(sims[0], sims[0].engine())
    workers = pool_engine(partial(Worker, sims[1].config, sims[1].data), 12, 3, num_workers=2)
    assert run_rounds(sims[1], workers) == here


def test_same_history_on_workers(pool_engine: MakeEngine, undisturbed, tmp_path: Path) -> None:
    sim = simulation("fedavg", "always")
    config, files = HistoryConfig(keep="updates"), []
    for name, engine in [("here", sim.engine()), ("there", pool_engine(partial(Worker, sim.config, sim.data), 12, 3))]:
        (tmp_path / name).mkdir()
        assert run_rounds(sim, engine, HistoryWriter(tmp_path / name, config)) == undisturbed("fedavg", "always")
        folder = tmp_path / name
        files.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert len(files[0]) == 3 * (2 + 7)


@pytest.mark.parametrize("strategy", ["fedavg", "fedloge"])
def test_same_bits_whatever_memory_states_have(strategy: str, undisturbed, tmp_path: Path) -> None:
    sim = simulation(strategy, "never", **{"engine.state_memory_mb": 0})
    engine = sim.engine()
    engine.states.spill_to(tmp_path / "spilled")
    assert run_rounds(sim, engine) == undisturbed(strategy, "never")
    assert (tmp_path / "spilled").exists() == (strategy == "fedloge")
    engine.close()


# Death ----------------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_changes_no_bit(pool_engine: MakeEngine, undisturbed, tmp_path: Path) -> None:
    """Three processes die, having trained a chunk and before answering."""
    strategy = "fedavg"
    sim = simulation(strategy, "never")
    sim_cohorts = [cohort_of(sim, server_round) for server_round in (1, 2, 3)]
    for server_round, cohort, position in zip((1, 2, 3), sim_cohorts, (0, 3, 6), strict=True):
        (tmp_path / f"train-{server_round}-{cohort[position]}").touch()
    engine = pool_engine(partial(fakes.MortalWorker, tmp_path, sim.config, sim.data), 12, 3)
    assert run_rounds(sim, engine) == undisturbed(strategy, "never")
    assert list(tmp_path.iterdir()) == []


def cohort_of(sim: Simulation, server_round: int) -> list[int]:
    from fedsim.federated.sampling import draw_cohort

    return list(draw_cohort(sim.config, sim.data.partition.sizes, server_round))


@pytest.mark.ray
@pytest.mark.slow
def test_workers_killed_from_outside_change_no_bit(ray_engine: MakeEngine, undisturbed) -> None:
    sim = simulation("fedloge", "never")
    engine = ray_engine(partial(Worker, sim.config, sim.data), 12, 3, retries=5)
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 3:
            for pid in fakes.own_workers(busy=True):
                if pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    time.sleep(0.3)
                    break
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    state = sim.begin()
    for _ in range(3):
        sim.step(state, engine)
    result = fingerprint(state, engine)
    assert killed
    while thread.is_alive():  # the rounds may be done before the killing is
        sim.step(state, engine)
    assert len(killed) == 3
    engine.close()
    assert result == undisturbed("fedloge", "never")
