"""Clients that each begin with a model of their own, trained together or alone."""

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.federated.types import State
from fedsim.flower.internals import client_of
from fedsim.flower.records import to_record, to_tensors
from tests.strategies.small_runs import assert_same_bits, begin

CLIENTS = [0, 1, 2, 3]


def starts_of(run: Any) -> dict[int, State]:
    """Return a different model for each client."""
    first = run.simulation.server.first
    noise = torch.Generator().manual_seed(1)
    return {
        client: State(
            {name: value + 0.05 * torch.randn(value.shape, generator=noise) for name, value in first.params.items()},
            {name: value.clone() for name, value in first.buffers.items()},
        )
        for client in CLIENTS
    }


def trained(run: Any, shared: State, own: dict[int, State] | None, clients: list[int]) -> dict[int, Any]:
    worker = run.simulation.worker
    models = {client: shared if own is None else shared.merged(own[client]) for client in clients}
    jobs = [worker.job(client, worker.client.personal(client, model), 1) for client, model in models.items()]
    if own is not None:
        jobs = [job._replace(start=own[job.client]) for job in jobs]
    out = worker.trainer.train(shared, run.simulation.server.constants(), jobs, 1)
    rows = {jobs[lane].client: row for row, lane in enumerate(out.lanes)}
    return {
        client: {name: value[row] for part in out.state for name, value in part.items()} for client, row in rows.items()
    }


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedlabel"])  # a loss on the start, notes made at it
def test_lanes_with_starts_of_their_own_are_those_runs_one_by_one(method):
    run = begin(method, {"training.epochs": 2, **({"strategy.mu": 1.0} if method == "fedprox" else {})})
    own = starts_of(run)
    nothing = State({}, {})
    together = trained(run, nothing, own, CLIENTS)
    for client in CLIENTS:
        alone = trained(run, own[client], None, [client])[client]  # the start that all share, as without this
        assert_same_bits(trained(run, nothing, own, [client])[client], alone)
        for name, value in alone.items():
            torch.testing.assert_close(together[client][name], value, rtol=1e-4, atol=1e-5)


def test_a_start_of_its_own_may_be_a_part_of_the_model():
    run = begin("fedavg")
    first = run.simulation.server.first
    heads = {
        client: State({n: v for n, v in state.params.items() if n.startswith("classifier.")}, {})
        for client, state in starts_of(run).items()
    }
    for client, got in trained(run, first, heads, CLIENTS).items():
        alone = trained(run, first.merged(heads[client]), None, [client])[client]
        for name, value in alone.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_a_worker_trains_from_what_each_client_was_sent(vectorize):
    run = begin("fedavg", {"training.vectorize": vectorize, "training.chunk": 4})
    sim, own = run.simulation, starts_of(run)
    nodes = run.engine.get_node_ids()
    sent = {
        node: to_record(own[client].params | own[client].buffers) for node, client in zip(nodes, CLIENTS, strict=True)
    }
    config = ConfigRecord({"reply": "updates"})
    messages = sim.server.messages("train", 1, to_record({}), config, nodes, sent)
    clients = [client_of(node) for node in nodes]
    replies = sim.worker.run_chunk("train", [m.content for m in messages], clients, [RecordDict()] * 4)
    for client, reply in zip(clients, replies, strict=True):
        assert reply.error == ""
        got = to_tensors(reply.content.array_records["arrays"])
        alone = trained(run, own[client], None, [client])[client]
        assert got.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)
