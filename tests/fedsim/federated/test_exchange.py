"""Rounds of several waves, and clients that answer queries: the same bits on every engine, and nobody lost twice."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedsim.config.resolve import resolve
from fedsim.engine.inprocess import InProcessEngine
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError, TooFewReplies
from fedsim.federated.exchange import conduct
from fedsim.flower.apps import AppWorker, FlowerStrategy, client_app
from fedsim.flower.internals import client_of, new_run, node_of
from fedsim.flower.records import copy_records, to_record, to_tensors
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.simulation import Simulation
from tests.declarations import undeclared
from tests.fedsim.federated.asking import UNWILLING, AskingClient, AskingServer, messages_to
from tests.strategies.small_runs import assert_same_bits, begin, halves
from tests.strategies.test_releases import items_sent

CONFIG: dict[str, Any] = {
    "strategy": "fedavg", "clients": 6, "cohort": 5, "rounds": 3, "eval_every": 3, "data.max_per_class": 20,
    "model": {"name": "mlp", "hidden": [16]}, "training": {"vectorize": "always", "chunk": 3, "epochs": 1},
}  # fmt: skip


@pytest.fixture
def asking():
    with halves("fedavg", client=AskingClient, server=AskingServer):
        yield


def simulation(waves: tuple[str, ...] | None = None, **more: Any) -> Simulation:
    sim = Simulation(resolve(CONFIG, more))
    if waves is not None:
        sim.server.waves = waves  # type: ignore[attr-defined]
    return sim


# The exchange itself ----------------------------------------------------------------------------------------------


def test_waves_are_sent_in_turn_and_the_lost_are_left_out():
    def exchange():
        first = yield [Message(RecordDict(), node_of(client), "train") for client in range(4)]
        heard.append([client_of(next(iter(first)).metadata.src_node_id)])  # one reply, then it goes on
        second = yield [Message(RecordDict(), node_of(client), "train") for client in range(4)]
        heard.append([client_of(reply.metadata.src_node_id) for reply in second])
        return "done"

    def send(wave):
        waves.append([client_of(message.metadata.dst_node_id) for message in wave])
        for message in wave:
            failed = client_of(message.metadata.dst_node_id) in (2, 3) and len(waves) == 1
            answered.append(message)
            yield Message(Error(2) if failed else RecordDict(), reply_to=message)

    new_run()  # or no message can be built
    waves, heard, answered = [], [], []
    assert conduct(exchange(), send) == "done"
    assert waves == [[0, 1, 2, 3], [0, 1]]
    assert heard == [[0], [0, 1]]
    assert len(answered) == 6  # those that nobody looked at, too


# Grouping ---------------------------------------------------------------------------------------------------------


def test_messages_of_one_broadcast_are_known_by_its_id_and_not_by_a_shared_object():
    """Trained together or one by one differs in the last bits: it must not depend on what an engine copies."""
    sim = simulation()
    engine = sim.engine()
    two = [
        sim.server.configure_train(1, to_record(sim.server.initial()), ConfigRecord(), engine) for _ in range(2)
    ]  # two broadcasts of the same content
    groups: list[list[int]] = []
    train = sim.worker.trainer.train

    def spy(start, constants, works, server_round):
        groups.append([work.client for work in works])
        return train(start, constants, works, server_round)

    sim.worker.trainer.train = spy  # type: ignore[method-assign]
    contents = [message.content for message in [*messages_to([0, 1], two[0]), *messages_to([2, 3], two[1])]]
    shared = sim.worker.run_chunk("train", contents, range(4), [RecordDict()] * 4)
    copied = sim.worker.run_chunk("train", [copy_records(c) for c in contents], range(4), [RecordDict()] * 4)
    assert groups == [[0, 1], [2, 3]] * 2
    for one, other in zip(shared, copied, strict=True):
        if "arrays" in one.content:
            pair = [to_tensors(reply.content.array_records["arrays"]) for reply in (one, other)]
            assert_same_bits(*pair)


def test_messages_with_tensors_of_single_clients_are_one_broadcast(asking):
    sim = simulation()
    nodes = sim.engine().get_node_ids()
    own = {node: to_record({"scale": torch.tensor(float(node))}) for node in nodes}
    messages = sim.server.messages("train", 1, to_record(sim.server.initial()), ConfigRecord(), nodes, own)
    ids = {message.content.config_records["config"]["broadcast"] for message in messages}
    assert len(ids) == 1
    assert len({id(message.content["arrays"]) for message in messages}) == 1
    assert [float(to_tensors(m.content.array_records["own"])["scale"]) for m in messages] == nodes


# Queries ----------------------------------------------------------------------------------------------------------


def test_answers_are_sums_over_a_clients_samples_and_their_number(asking):
    sim = simulation(("query.all",))
    sim.step(sim.begin(), sim.engine())
    for (_, client), answer in sim.server.answers.items():
        x, y = sim.worker.train_set.batch(torch.from_numpy(sim.data.partition[client]), None)
        expected = (client + 1) * x.double().flatten(1).sum(0)
        assert answer["pixels"].numpy() == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-4)
        assert answer["labels"].tolist() == np.bincount(y, minlength=10).tolist()
    assert len(sim.server.answers) == 5


def test_long_answers_are_added_up_in_parts(asking, monkeypatch):
    whole, parts = simulation(("query.all",)), simulation(("query.all",))
    whole.step(whole.begin(), whole.engine())
    monkeypatch.setattr("fedsim.training.queries._TOGETHER", 7)
    parts.step(parts.begin(), parts.engine())
    for key, answer in whole.server.answers.items():
        torch.testing.assert_close(parts.server.answers[key]["pixels"], answer["pixels"], rtol=1e-5, atol=1e-4)
        assert torch.equal(parts.server.answers[key]["labels"], answer["labels"])


def test_equal_addresses_draw_equal_samples_in_a_round(asking):
    sim = simulation(("query.some", "query.same", "query.others"))
    state, engine = sim.begin(), sim.engine()
    sim.step(state, engine)
    first = dict(sim.server.answers)
    sim.server.answers.clear()
    sim.step(state, engine)
    clients = [client for kind, client in first if kind == "query.some"]
    for client in clients:
        assert_same_bits(first["query.same", client], first["query.some", client])
        assert int(first["query.some", client]["labels"].sum()) == 5
    differ = [not torch.equal(first["query.some", c]["pixels"], first["query.others", c]["pixels"]) for c in clients]
    assert all(differ)
    again = [c for c in clients if ("query.some", c) in sim.server.answers]
    rounds = [
        torch.equal(first["query.some", c]["pixels"], sim.server.answers["query.some", c]["pixels"]) for c in again
    ]
    assert not any(rounds)


def test_an_unknown_query_is_an_error_reply(asking):
    sim = simulation(("query.nothing",))
    with pytest.raises(TooFewReplies, match="no client function"):
        sim.step(sim.begin(), sim.engine())


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_client_lost_in_any_wave_is_lost_for_the_round_and_counted_once(asking):
    sim = simulation(("query.all", "query.refused", "query.some"), cohort=6)
    state = sim.begin()
    metrics = sim.step(state, sim.engine())
    assert metrics["train/failures"] == state.failures == 1
    assert state.metrics[-1]["failures"] == {"ValueError: not this one": [UNWILLING]}
    after = {client for kind, client in sim.server.answers if kind == "query.some"}
    assert after == {0, 1, 2, 4, 5}
    # The others' answers are what they are without it.
    calm = simulation(("query.all", "query.some"), cohort=6)
    calm.step(calm.begin(), calm.engine())
    for client in after:
        assert_same_bits(sim.server.answers["query.some", client], calm.server.answers["query.some", client])


def test_min_replies_counts_those_who_came_to_the_end(asking):
    sim = simulation(("query.refused",), cohort=6, min_replies=6)
    with pytest.raises(TooFewReplies, match="5 good replies of 6"):
        sim.step(sim.begin(), sim.engine())


def test_a_round_of_waves_resumes_to_the_same_bits(asking, tmp_path):
    whole, half = begin("fedavg"), begin("fedavg")
    whole.advance(3)
    half.advance(1)
    half.simulation.checkpoint(half.state, half.engine).save(tmp_path)
    resumed = begin("fedavg", checkpoint=load_latest(tmp_path))
    resumed.advance(2)
    assert_same_bits(resumed.tensors, whole.tensors)


# Flower -----------------------------------------------------------------------------------------------------------


def test_flowers_own_loop_conducts_the_same_waves(asking):
    other = simulation(**{"training.vectorize": "never"})
    grid = InProcessEngine(AppWorker(client_app(other.worker), 6), 6, 3)
    expected = InProcessEngine(other.worker, 6, 3)
    ends = [
        FlowerStrategy(other.server).start(some, to_record(other.server.initial()), num_rounds=2)
        for some in (expected, grid)
    ]
    assert_same_bits(*(to_tensors(end.arrays) for end in ends))
    assert ends[0].evaluate_metrics_clientapp == ends[1].evaluate_metrics_clientapp
    assert ends[0].evaluate_metrics_clientapp[2]["accuracy"] > 0
    assert [kind for kind, _ in other.server.asked[:2]] == ["query.all", "query.some"]


# Promises ---------------------------------------------------------------------------------------------------------


def test_answers_that_are_not_declared_are_found(asking):
    found = undeclared(items_sent("fedavg"), begin("fedavg").simulation.worker.client.releases())
    assert found == [f"query.{query}/{item}" for query in ("all", "some") for item in ("labels", "pixels")]


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("history.keep", "norms", "history.keep: clients of fedavg are sent several messages"),
        ("privacy.client", {"noise_multiplier": 1.0}, "privacy.client: clients of fedavg also answer queries"),
        ("privacy.example", {"noise_multiplier": 1.0}, "privacy.example: clients of fedavg also answer queries"),
    ],
)
def test_what_takes_one_reply_for_a_round_is_refused(asking, option, value, line):
    with pytest.raises(FedsimError, match=line):
        simulation(**{option: value})


def test_one_wave_is_todays_round():
    sim = simulation()
    assert sim.server.one_wave
    assert isinstance(sim.worker, Worker)
    assert sim.worker.queries == {}
