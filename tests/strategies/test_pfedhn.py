"""pFedHN: descriptors and hypernetwork take the step of one graph; a new client costs exchanges."""

import torch

from fedsim.flower.internals import client_of
from fedsim.flower.records import to_tensors
from strategies.hypernetwork import PREFIX, generate
from tests.strategies.small_runs import assert_same_bits, begin

TABLE = f"{PREFIX}descriptors"


def test_gradients_are_those_of_one_graph():
    run = begin("pfedhn", {"training.precision": "float64", "cohort": 3})
    server, found, replies = run.simulation.server, {}, {}
    stream, updated = run.engine.stream, server.updated

    def spy(messages):
        for reply in stream(messages):
            replies[client_of(reply.metadata.src_node_id)] = to_tensors(reply.content["arrays"])
            yield reply

    def step(tensors, gradients):
        found.update(gradients)
        return updated(tensors, gradients)

    before = dict(run.tensors)
    run.engine.stream, server.updated = spy, step
    run.advance(1)
    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    total = sum(
        (change[name] * value[0]).sum()
        for client, change in replies.items()
        for name, value in generate(leaves, leaves[TABLE][[client]], server.shapes).items()
    )
    expected = torch.autograd.grad(total / len(replies), list(leaves.values()))
    for (name, value), got in zip(leaves.items(), expected, strict=True):
        torch.testing.assert_close(found[name], got, rtol=1e-10, atol=1e-14, msg=name)
        assert value.shape == got.shape
    idle = next(client for client in range(4) if client not in replies)
    assert not found[TABLE][idle].any()


def test_a_new_client_fits_a_descriptor_with_the_hypernetwork_held():
    run = begin("pfedhn", {"clients": 5, "clients_unseen": 2, "rounds": 2, "eval_every": 2, "strategy.fit_rounds": 3})
    kinds = []
    stream = run.engine.stream

    def spy(messages):
        messages = list(messages)
        kinds.append((messages[0].metadata.message_type, [client_of(m.metadata.dst_node_id) for m in messages]))
        for message, reply in zip(messages, stream(messages), strict=True):
            assert not [n for record in message.content.array_records.values() for n in record if PREFIX in n]
            yield reply

    run.advance(1)
    before, model = run.simulation.server.state_dict(), dict(run.tensors)
    run.engine.stream = spy
    run.simulation.evaluate_clients(1, run.tensors, run.engine)
    assert kinds[1:] == [("train", [3, 4])] * 3 + [("evaluate", [3, 4])]
    after = run.simulation.server.state_dict()
    assert after[1] == before[1]
    assert_same_bits(after[0], before[0])
    assert_same_bits(run.tensors, model)


def test_fitting_helps():
    """More exchanges come to a model that does better on the new clients' own samples."""
    accuracies = []
    for rounds in (0, 8):
        run = begin("pfedhn", {
            "clients": 8, "clients_unseen": 4, "rounds": 12, "eval_every": 12, "data.max_per_class": 40,
            "training.steps": 10, "strategy.server_lr": 3e-3, "strategy.fit_rounds": rounds, "strategy.hidden": 32,
            "data.partition": {"name": "pathological", "classes_per_client": 5, "equal": True},
            "data.imbalance_factor": 1.0,
        })  # fmt: skip
        accuracies.append(run.advance(12)["unseen/accuracy"])
    assert accuracies[1] > accuracies[0] + 0.02
