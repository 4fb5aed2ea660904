"""A run's clients as a Flower `ClientApp`: the same bits as through an engine, failures and states included."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedsim.config.resolve import resolve
from fedsim.engine.inprocess import InProcessEngine
from fedsim.flower.apps import AppWorker, client_app
from fedsim.flower.internals import client_context, node_of
from fedsim.flower.records import to_record
from fedsim.runs.simulation import Simulation


def simulation(strategy: str, **more) -> Simulation:
    config = {
        "strategy": strategy, "clients": 6, "cohort": 4, "rounds": 2, "training": {"vectorize": "never", "chunk": 1},
    }  # fmt: skip
    return Simulation(resolve(config, more))


@pytest.mark.parametrize("strategy", ["fedavg", "fedloge", "krum"])
def test_same_bits_as_through_the_engine(strategy):
    sim = simulation(strategy)
    ends = []
    for worker in (sim.worker, AppWorker(client_app(sim.worker), 6)):
        engine, state = InProcessEngine(worker, 6, 1), sim.begin()
        sim.server.load_state_dict(*state.server)
        for _ in range(2):
            sim.step(state, engine)
        ends.append((
            {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()},
            {client: repr(engine.states[client]) for client in engine.states.committed()},
            [{n: v for n, v in line["metrics"].items() if n != "train/clients_per_s"} for line in state.metrics],
        ))  # fmt: skip
    assert ends[0] == ends[1]
    assert bool(ends[0][1]) == (strategy == "fedloge")


def test_flower_calls_it_like_any_other():
    """One message and one context at a time; what a client keeps is in its context."""
    sim = simulation("fedloge")
    app = client_app(sim.worker)
    engine = InProcessEngine(sim.worker, 6, 1)
    engine.cohort = [2]
    arrays = to_record(sim.server.initial())
    (message,) = sim.server.configure_train(1, arrays, ConfigRecord(), engine)
    context = client_context(2, 6, RecordDict())
    reply = app(message, context)
    assert reply.has_content()
    assert reply.metadata.src_node_id == node_of(2)
    assert list(context.state) == ["personal", "personal-buffers"]
    # As the server sends it in a real federation: arrays as bytes, which train to the same bits.
    encoded = RecordDict({**message.content, "arrays": ArrayRecord(arrays.to_torch_state_dict())})
    again = app(Message(encoded, node_of(2), "train"), client_context(2, 6, RecordDict()))
    assert [a.data for a in again.content.array_records["arrays"].values()] == [
        a.data for a in reply.content.array_records["arrays"].values()
    ]


def test_a_failure_is_an_error_reply():
    sim = simulation("fedloge", **{"faults.error": 1.0})
    context = client_context(0, 6, RecordDict())
    engine = InProcessEngine(sim.worker, 6, 1)
    (message, *_) = sim.server.configure_train(1, to_record(sim.server.initial()), ConfigRecord(), engine)
    reply = client_app(sim.worker)(message, context)
    assert reply.error.reason == "injected error"
    assert not context.state
