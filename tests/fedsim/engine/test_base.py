"""What every engine promises, on all of them: in this process, in forks of it, and on Ray with one and two workers."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

import tests.fedsim.engine.fakes as fakes
from fedsim.errors import ClusterLost
from fedsim.flower.internals import client_of, node_of
from fedsim.flower.records import to_record
from tests.fedsim.engine.kinds import RAY_LEFTOVERS, MakeEngine

pytestmark = RAY_LEFTOVERS


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


# Streaming -------------------------------------------------------------------------------------------------------


def test_workers_run_a_few_chunks_ahead_and_no_more(pool_engine: MakeEngine, tmp_path: Path) -> None:
    engine = pool_engine(partial(fakes.EchoWorker, tmp_path / "log"), 100, 1)
    replies = engine.stream(fakes.numbered(list(range(100))))
    next(replies)
    time.sleep(0.5)
    started = len((tmp_path / "log").read_text().split())
    assert 2 <= started <= 8  # the first, two running, and what a window of six leaves room for
    replies.close()


def test_a_slow_chunk_does_not_idle_the_others(pool_engine: MakeEngine) -> None:
    """While one worker is at chunk 0, the other one answers the rest."""
    engine = pool_engine(partial(fakes.EchoWorker, None, [1.0] + [0.0] * 5), 6, 1)
    first, *others = (values(reply)["process"] for reply in engine.stream(fakes.numbered(list(range(6)))))
    assert len(set(others)) == 1
    assert first not in others


# Death -----------------------------------------------------------------------------------------------------------


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
    engine = pool_engine(slow, 6, 2, retries=1, chunk_timeout_s=1, lost_chunks="drop")
    replies = list(engine.stream(fakes.numbered(list(range(6)))))
    assert [reply.has_error() for reply in replies] == [True, True, False, False, False, False]
    assert replies[0].error.reason == "its worker failed 2 times: it took more than engine.chunk_timeout_s = 1"


def test_a_caller_that_stops_early_leaves_nothing_running(pool_engine: MakeEngine) -> None:
    engine = pool_engine(partial(fakes.EchoWorker, None, [0.0] + [30.0] * 3), 4, 1)
    replies = engine.stream(fakes.numbered(list(range(4))))
    next(replies)
    replies.close()
    begun = time.perf_counter()
    assert values(next(engine.stream(fakes.numbered([0]))))["client"] == 0
    assert time.perf_counter() - begun < 20
