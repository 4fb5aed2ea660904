"""What every engine promises, on all of them: in this process, in forks of it, and on Ray with one and two workers."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

import tests.fedsim.engine.fakes as fakes
from fedsim.config.resolve import resolve
from fedsim.config.run import HistoryConfig
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcessEngine
from fedsim.engine.worker import Worker
from fedsim.errors import ClusterLost
from fedsim.flower.internals import client_of, node_of
from fedsim.flower.records import to_record
from fedsim.runs.history import HistoryWriter
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState
from tests.fedsim.federated.asking import AskingClient, AskingServer, PatchedWorker
from tests.strategies.small_runs import assert_same_bits, halves

MakeEngine = Callable[..., Engine]

# Ray leaves what its daemons write to, and the daemons themselves, to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file .*/dev/null:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning"),
]

ENGINES = ["inprocess", "local-2", "ray-1", "ray-2"]


def marked(case: Any) -> Any:
    """Return a parameter, or several of which the first is an engine, with the marks that the engine asks for."""
    values = case if isinstance(case, tuple) else (case,)
    marks = [pytest.mark.ray] if values[0].startswith("ray") else []
    if values[0] == "ray-1":  # two workers show more, and sooner
        marks.append(pytest.mark.slow)
    return pytest.param(*values, marks=marks)


@pytest.fixture(params=list(map(marked, ENGINES)))
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Return a function that makes an engine of some kind from what makes its worker."""
    kind = request.param
    if kind == "inprocess":
        return lambda make_worker, clients, chunk: InProcessEngine(make_worker(), clients, chunk)
    make: MakeEngine = request.getfixturevalue("local_engine" if kind.startswith("local") else "ray_engine")
    return partial(make, num_workers=int(kind[-1]))


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def pool_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Return a function that makes an engine with two worker processes."""
    make: MakeEngine = request.getfixturevalue(f"{request.param}_engine")
    return make


def values(reply: Message) -> dict[str, Any]:
    return dict(reply.content.metric_records["metrics"])


# The grid -------------------------------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_messages(make_engine: MakeEngine) -> None:
    engine = make_engine(partial(fakes.EchoWorker, None, [0.1, 0.0, 0.05]), 9, 2)
    order = [7, 0, 3, 8, 1, 4, 2]
    replies = list(engine.stream(fakes.numbered(order)))
    assert [values(reply)["client"] for reply in replies] == order
    assert [values(reply)["told"] for reply in replies] == list(range(7))
    assert [client_of(reply.metadata.src_node_id) for reply in replies] == order


def test_state_is_staged_until_it_is_committed(make_engine: MakeEngine) -> None:
    engine = make_engine(fakes.EchoWorker, 4, 2)
    seen = [[values(reply)["seen"] for reply in engine.stream(fakes.numbered([0, 1, 2]))] for _ in range(2)]
    assert seen == [[0, 0, 0], [1, 1, 1]]
    engine.states.discard()
    assert [values(reply)["seen"] for reply in engine.stream(fakes.numbered([0, 1]))] == [0, 0]
    engine.states.commit()
    engine.states.discard()
    assert [values(reply)["seen"] for reply in engine.stream(fakes.numbered([0, 1, 2]))] == [1, 1, 0]
    assert engine.trained == {0, 1, 2}


def test_several_messages_to_one_client_are_handled_one_after_another(make_engine: MakeEngine) -> None:
    """Each with the state that the one before left, whatever else there is to do meanwhile."""
    engine = make_engine(partial(fakes.EchoWorker, None, [0.05, 0.0]), 9, 2)
    order = [0, 1, 2, 0, 0, 1, 3, 4, 0]
    assert [values(reply)["seen"] for reply in engine.stream(fakes.numbered(order))] == [0, 0, 0, 1, 2, 1, 0, 0, 3]


def test_push_and_pull(make_engine: MakeEngine) -> None:
    engine = make_engine(fakes.EchoWorker, 4, 2)
    first = engine.push_messages(fakes.numbered([0, 1, 2]))
    second = engine.push_messages(fakes.numbered([3]))
    assert len({*first, *second}) == 4
    assert [values(reply)["client"] for reply in engine.pull_messages([second[0], first[1]])] == [3, 1]
    assert engine.pull_messages([second[0], "unknown"]) == []
    assert [reply.metadata.reply_to_message_id for reply in engine.pull_messages(first)] == [first[0], first[2]]


def test_only_the_cohort_is_shown(make_engine: MakeEngine) -> None:
    engine = make_engine(fakes.EchoWorker, 4, 2)
    assert [client_of(node) for node in engine.get_node_ids()] == [0, 1, 2, 3]
    engine.cohort = [3, 1]
    assert [client_of(node) for node in engine.get_node_ids()] == [3, 1]


def test_messages_of_several_kinds(make_engine: MakeEngine) -> None:
    engine = make_engine(fakes.foreign_worker, 8, 4)
    messages = [
        Message(RecordDict({"arrays": ArrayRecord([np.zeros(2)])}), node_of(1), "train"),
        Message(RecordDict(), node_of(2), "query.keys"),
        Message(RecordDict(), node_of(3), "query.nothing"),
    ]
    trained, queried, refused = engine.send_and_receive(messages)
    assert trained.content.array_records["arrays"].to_numpy_ndarrays()[0].tolist() == [2.0, 2.0]
    assert queried.content.metric_records["key"]["node"] == node_of(2)
    assert refused.has_error()


# Flower's strategies and apps ------------------------------------------------------------------------------------


def test_flowers_own_loop_runs_on_it(make_engine: MakeEngine) -> None:
    """FedAvg.start with an app that knows nothing of fedsim. Client c adds 1 + c to the model, with weight 1 + c.

    Client 5 fails its second time, and in round 3 too: its count was not kept.
    """
    engine = make_engine(fakes.foreign_worker, 8, 3)
    strategy = FedAvg(min_available_nodes=8)
    result = strategy.start(engine, ArrayRecord([np.zeros(2, np.float32)]), num_rounds=3)
    c = np.arange(1, 9)
    without_5 = c[c != 6]
    expected = (c**2).sum() / c.sum() + 2 * (without_5**2).sum() / without_5.sum()
    assert np.allclose(result.arrays.to_numpy_ndarrays()[0], expected)
    assert result.evaluate_metrics_clientapp[3]["sum"] == pytest.approx(2 * expected)


def test_a_client_that_raises_costs_its_own_reply_and_keeps_its_old_state(make_engine: MakeEngine) -> None:
    engine = make_engine(fakes.foreign_worker, 8, 8)
    content = RecordDict({"arrays": ArrayRecord([np.zeros(2)])})
    replies = []
    for _ in range(3):
        replies.append(list(engine.stream([Message(content, node_of(client), "train") for client in range(8)])))
        engine.states.commit()
    assert [[reply.has_error() for reply in some].count(True) for some in replies] == [0, 1, 1]
    for reply in (replies[1][5], replies[2][5]):  # the second call failed twice: its count was never kept
        assert reply.error.code == 2
        assert "client 5 has had enough" in reply.error.reason
    assert [values(reply)["times"] for reply in replies[2] if not reply.has_error()] == [3] * 7


def test_a_client_that_edits_its_message_edits_nobody_elses(make_engine: MakeEngine) -> None:
    engine = make_engine(vandals, 6, 3)
    content = RecordDict({"arrays": to_record({"w": torch.ones(3)})})
    replies = list(engine.stream([Message(content, node_of(client), "train") for client in range(6)]))
    assert [values(reply) for reply in replies] == [{"received": 3.0, "records": 2}] * 6
    assert list(content) == ["arrays"]
    assert content.array_records["arrays"]["w"].numpy().tolist() == [1, 1, 1]


def vandals() -> Any:
    return fakes.AppWorker(fakes.vandal_app(), 6)


def test_a_strategy_that_needs_all_updates(make_engine: MakeEngine) -> None:
    engine = make_engine(partial(fakes.BigWorker, 10), 5, 2)
    strategy = FedMedian(min_available_nodes=5)
    messages = list(strategy.configure_train(1, to_record({"w": torch.zeros(10)}), ConfigRecord(), engine))
    arrays, _ = strategy.aggregate_train(1, engine.stream(messages))
    assert arrays["w"].numpy().tolist() == [2.0] * 10


# Bits ------------------------------------------------------------------------------------------------------------


def simulation(strategy: str, vectorize: str, **more: Any) -> Simulation:
    return Simulation(
        resolve(
            {
                "strategy": strategy, "clients": 12, "cohort": 7, "rounds": 3, "eval_every": 3,
                "training": {"vectorize": vectorize, "chunk": 3, "clip_norm": 1.0}, "data.partition": "dirichlet",
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


CASES = [
    *((engine, strategy) for engine in ENGINES for strategy in ("fedavg", "fedloge")),
    *(
        (engine, strategy)
        for engine in ENGINES
        if engine != "local-2"
        for strategy in ("fedlabel", "fedld", "scaffold")
    ),
]


@pytest.mark.parametrize("vectorize", ["never", "always"])
@pytest.mark.parametrize(("make_engine", "strategy"), list(map(marked, CASES)), indirect=["make_engine"])
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


# Streaming -------------------------------------------------------------------------------------------------------


def test_workers_run_a_few_chunks_ahead_and_no_more(pool_engine: MakeEngine, tmp_path: Path) -> None:
    engine = pool_engine(partial(fakes.EchoWorker, tmp_path / "log"), 100, 1)
    replies = engine.stream(fakes.numbered(list(range(100))))
    next(replies)
    time.sleep(0.5)
    started = len((tmp_path / "log").read_text().split())
    assert 2 <= started <= 8  # the first, two running, and what a window of six leaves room for
    replies.close()


def test_a_slow_chunk_does_not_idle_the_others(pool_engine: MakeEngine, tmp_path: Path) -> None:
    """Chunk 0 takes as long as the other five together: two workers need half the time of one."""
    engine = pool_engine(partial(fakes.EchoWorker, None, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]), 6, 1)
    begun = time.perf_counter()
    list(engine.stream(fakes.numbered(list(range(6)))))
    assert time.perf_counter() - begun < 0.9


# Death -----------------------------------------------------------------------------------------------------------


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


def test_when_retries_are_used_up_those_clients_fail_and_the_rest_goes_on(pool_engine: MakeEngine) -> None:
    engine = pool_engine(partial(fakes.LethalWorker, 3), 8, 2, retries=1, lost_chunks="drop")
    replies = list(engine.stream(fakes.numbered(list(range(8)))))
    assert [reply.has_error() for reply in replies] == [False, False, True, True, False, False, False, False]
    assert replies[3].error.reason.startswith("its worker failed 2 times: ")
    assert [reply.has_error() for reply in engine.stream(fakes.numbered([0, 1, 4, 5]))] == [False] * 4


def test_when_retries_are_used_up_the_machinery_has_failed_and_no_client(pool_engine: MakeEngine) -> None:
    """A model without those clients would be another one."""
    engine = pool_engine(partial(fakes.LethalWorker, 3), 8, 2, retries=1)
    with pytest.raises(ClusterLost, match=r"^engine: no reply of clients 2, 3: its worker failed 2 times: [^\n]*$"):
        list(engine.stream(fakes.numbered(list(range(8)))))


def test_a_worker_that_hangs_is_given_up(pool_engine: MakeEngine) -> None:
    """The first chunk sleeps for minutes: it is tried twice, then its clients fail, and the others go on."""
    slow = partial(fakes.EchoWorker, None, [300.0] + [0.0] * 5)
    engine = pool_engine(slow, 6, 2, retries=1, chunk_timeout_s=2, lost_chunks="drop")
    replies = list(engine.stream(fakes.numbered(list(range(6)))))
    assert [reply.has_error() for reply in replies] == [True, True, False, False, False, False]
    assert replies[0].error.reason == "its worker failed 2 times: it took more than engine.chunk_timeout_s = 2"


def test_a_caller_that_stops_early_leaves_nothing_running(pool_engine: MakeEngine) -> None:
    engine = pool_engine(partial(fakes.EchoWorker, None, [0.0] + [30.0] * 3), 4, 1)
    replies = engine.stream(fakes.numbered(list(range(4))))
    next(replies)
    replies.close()
    begun = time.perf_counter()
    assert values(next(engine.stream(fakes.numbered([0]))))["client"] == 0
    assert time.perf_counter() - begun < 20
