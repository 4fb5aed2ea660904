"""PeFLL: three waves that come to one gradient, descriptors that are means, nothing of the hypernetwork on the wire."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from fedsim.errors import FedsimError
from fedsim.federated.types import Batch, State
from fedsim.flower.internals import client_of, error_reply
from fedsim.flower.records import to_tensors
from fedsim.runs.checkpoint import load_latest
from fedsim.training.queries import rows_of
from strategies.hypernetwork import PREFIX, generate
from strategies.pefll import PefllClient, labelled, scale_of
from tests.strategies.small_runs import assert_same_bits, begin

EXACT = {"training.precision": "float64", "training.chunk": 4}


class Recorded:
    """A run whose messages, replies and gradients are kept; `lose` is a client whose training never arrives."""

    def __init__(self, overrides: dict[str, Any] | None = None, lose: int | None = None) -> None:
        self.run = begin("pefll", {**EXACT, **(overrides or {})})
        self.pairs: list[tuple[Message, Message]] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.server = self.run.simulation.server
        stream, updated = self.run.engine.stream, self.server.updated

        def spy(messages: Any) -> Any:
            messages = list(messages)
            for message, reply in zip(messages, stream(messages), strict=True):
                kind, client = message.metadata.message_type, client_of(message.metadata.dst_node_id)
                if kind == "train" and client == lose:
                    reply = error_reply(message, "lost")
                self.pairs.append((message, reply))
                yield reply

        def step(tensors: Any, gradients: Any) -> Any:
            self.before, self.gradients = tensors, gradients
            return updated(tensors, gradients)

        self.run.engine.stream = spy  # type: ignore[method-assign]
        self.server.updated = step
        self.run.advance(1)

    def of(self, kind: str) -> dict[int, tuple[Message, Message]]:
        return {client_of(m.metadata.dst_node_id): (m, r) for m, r in self.pairs if m.metadata.message_type == kind}

    def joint(self) -> dict[str, torch.Tensor]:
        """Return the gradients of both nets, from one graph of the same samples and changes."""
        sim = self.run.simulation
        leaves = {name: value.clone().requires_grad_() for name, value in self.before.items()}
        client, (m, s) = sim.worker.client, self.server.scale
        query = client.queries()["embed"]
        changes = {c: to_tensors(reply.content["arrays"]) for c, (_, reply) in self.of("train").items()}
        total = {name: torch.zeros_like(value) for name, value in leaves.items()}
        for number, change in changes.items():
            rows = rows_of(query, sim.data.partition[number], sim.config.seed, 1, number)
            batch = Batch(*sim.worker.train_set.batch(torch.from_numpy(rows), None))
            v = (client.embed(leaves, batch).mean(0) - m) / s
            made = generate(leaves, v[None], self.server.shapes)
            outputs = [change[name][None] for name in made]
            found = torch.autograd.grad(list(made.values()), list(leaves.values()), outputs)
            for name, value in zip(leaves, found, strict=True):
                total[name] += value / len(changes)
        return total


def worst(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert got.keys() == expected.keys()
    return max(float((got[n] - v).abs().max() / v.abs().max().clamp_min(1e-12)) for n, v in expected.items())


# The gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_three_waves_come_to_the_gradient_of_one_graph(vectorize):
    recorded = Recorded({"training.vectorize": vectorize, "strategy.descriptor_batch": 5})
    assert worst(recorded.gradients, recorded.joint()) <= 1e-6


def test_a_batch_drawn_anew_in_the_last_wave_is_found(monkeypatch):
    queries = PefllClient.queries

    def redrawn(self: PefllClient) -> Any:
        asked = dict(queries(self))
        asked["backward"] = asked["backward"].__class__(self.backward, 5, "another")
        return asked

    monkeypatch.setattr(PefllClient, "queries", redrawn)
    assert worst((r := Recorded({"strategy.descriptor_batch": 5})).gradients, r.joint()) > 1e-2


def test_one_step_on_the_described_samples_is_the_end_to_end_gradient():
    """With k = 1, no momentum and all samples in the batch, D = lr times the gradient of the loss."""
    recorded = Recorded({
        "training.steps": 1, "training.batch_size": 1000, "training.momentum": 0.0, "training.weight_decay": 0.0,
        "training.clip_norm": None, "strategy.descriptor_batch": None,
    })  # fmt: skip
    sim, (m, s) = recorded.run.simulation, recorded.server.scale
    leaves = {name: value.clone().requires_grad_() for name, value in recorded.before.items()}
    losses = []
    for number in recorded.of("train"):
        batch = Batch(*sim.worker.train_set.batch(torch.from_numpy(sim.data.partition[number]), None))
        v = (sim.worker.client.embed(leaves, batch).mean(0) - m) / s
        theta = {name: value[0] for name, value in generate(leaves, v[None], recorded.server.shapes).items()}
        losses.append(batch.loss(sim.worker.client.model.logits(theta, {}, batch.x, train=True)))
    end_to_end = torch.autograd.grad(torch.stack(losses).mean() * sim.config.training.lr, list(leaves.values()))
    assert worst(recorded.gradients, dict(zip(leaves, end_to_end, strict=True))) <= 1e-8


def test_no_change_of_clients_leaves_both_nets_as_they_are(monkeypatch):
    monkeypatch.setattr(
        PefllClient, "finish",
        lambda self, update, extras: update._replace(sent={n: torch.zeros_like(v) for n, v in update.sent.items()}),
    )  # fmt: skip
    recorded = Recorded()
    assert all(not value.any() for value in recorded.gradients.values())
    assert_same_bits(recorded.run.tensors, recorded.before)


def test_a_client_lost_in_the_second_wave_leaves_the_others_as_they_are():
    whole, short = Recorded(), Recorded(lose=2)
    assert set(short.of("query.backward")) == set(whole.of("query.backward")) - {2}
    for client, (message, reply) in short.of("query.backward").items():
        known, answered = whole.of("query.backward")[client]
        assert_same_bits(to_tensors(message.content["own"]), to_tensors(known.content["own"]))
        assert_same_bits(to_tensors(reply.content["arrays"]), to_tensors(answered.content["arrays"]))
    del short.pairs[[m.metadata.message_type == "train" and client_of(m.metadata.dst_node_id) == 2
                     for m, _ in short.pairs].index(True)]  # fmt: skip
    assert worst(short.gradients, short.joint()) <= 1e-6
    assert short.run.state.failures == 1


# Descriptors ------------------------------------------------------------------------------------------------------


def test_a_descriptor_is_a_mean_over_samples():
    run = begin("pefll", EXACT)
    client, state = run.simulation.worker.client, State(run.tensors, {})
    x, y = run.simulation.worker.train_set.batch(torch.arange(40), None)

    def mean(rows: torch.Tensor) -> torch.Tensor:
        return client.describe(state, {}, {}, Batch(x[rows], y[rows]))["descriptor"] / len(rows)

    every = torch.arange(40)
    torch.testing.assert_close(mean(every.flip(0)), mean(every))
    torch.testing.assert_close(0.25 * mean(every[:10]) + 0.75 * mean(every[10:]), mean(every))
    torch.testing.assert_close(mean(every[:5].repeat(50)), mean(every[:5]))


def test_labels_are_planes_behind_the_image_or_entries_behind_the_row():
    y = torch.tensor([2, 0])
    images = labelled(torch.zeros(2, 1, 3, 4), y, 3)
    assert images.shape == (2, 4, 3, 4)
    assert images.sum((2, 3)).tolist() == [[0, 0, 0, 12], [0, 12, 0, 0]]
    assert labelled(torch.zeros(2, 5), y, 3)[:, 5:].tolist() == [[0, 0, 1], [1, 0, 0]]
    run = begin("pefll", {"strategy.labels": False})
    assert run.tensors["embedding.features.1.weight"].shape[1] == 64


def test_scale_is_of_the_first_descriptor_and_comes_back_with_a_checkpoint(tmp_path):
    run = begin("pefll")
    run.advance(1)
    first = run.simulation.server.scale
    run.advance(2)
    assert run.simulation.server.scale == first
    run.simulation.checkpoint(run.state, run.engine).save(tmp_path)
    again = begin("pefll", checkpoint=load_latest(tmp_path))
    assert again.simulation.server.scale == first
    scores = [sim.simulation.evaluate_clients(3, sim.tensors, sim.engine) for sim in (run, again)]
    assert scores[0] == scores[1]
    descriptor = torch.tensor([1.0, 2.0, 4.0])
    assert scale_of(descriptor) == pytest.approx((7 / 3, float(descriptor.std())))


@pytest.mark.parametrize("embedding", ["histogram", "constant"])
def test_other_descriptors(embedding):
    run = begin("pefll", {"strategy.embedding": embedding})
    run.advance(2)
    assert not [name for name in run.tensors if name.startswith("embedding.")]
    server, worker = run.simulation.server, run.simulation.worker
    batch = Batch(*worker.train_set.batch(torch.from_numpy(run.simulation.data.partition[0]), None))
    described = worker.client.describe(State({}, {}), {}, {}, batch)["descriptor"] / len(batch.y)
    if embedding == "histogram":
        assert described.numpy() == pytest.approx(np.bincount(batch.y, minlength=10) / len(batch.y))
        assert server.size == 10
    else:
        assert described.tolist() == [1.0] * server.size
        assert server.scale == (0.0, 1.0)


# Sizes, and the wire ----------------------------------------------------------------------------------------------


def test_no_tensor_of_the_hypernetwork_is_ever_sent():
    recorded = Recorded({"clients_unseen": 1, "eval_every": 1})
    kinds: dict[str, list[str]] = {}
    for pair in recorded.pairs:
        for message in pair:
            for record in message.content.array_records.values():
                assert not [name for name in record if PREFIX in name]
                kinds.setdefault(message.metadata.message_type, []).extend(record)
    assert list(kinds) == ["query.embed", "train", "query.backward", "query.embed_all", "evaluate"]
    (message, reply), *_ = recorded.of("query.embed").values()
    assert to_tensors(reply.content["arrays"])["descriptor"].shape == (recorded.server.size,)
    (message, reply), *_ = recorded.of("train").values()
    assert not message.content["arrays"]
    theta = {name: tuple(shape) for name, shape in recorded.server.shapes.items()}
    assert {name: tuple(array.shape) for name, array in message.content["own"].items()} == theta
    assert {name: tuple(array.shape) for name, array in reply.content["arrays"].items()} == theta
    (message, _), *_ = recorded.of("query.backward").values()
    assert list(message.content["own"]) == ["gradient"]


def test_to_predict_for_unseen_clients_changes_nothing():
    run = begin("pefll", {"clients_unseen": 1})
    run.advance(1)
    before = run.simulation.server.state_dict()
    run.simulation.evaluate_clients(1, run.tensors, run.engine)
    after = run.simulation.server.state_dict()
    assert after[1] == before[1]
    assert_same_bits(after[0], before[0])


def test_equal_descriptors_make_equal_models():
    run = begin("pefll")
    row = torch.randn(run.simulation.server.size)
    made = run.simulation.server.models_alone(run.tensors, {2: row, 3: row.clone()})
    assert_same_bits(to_tensors(made[2]), to_tensors(made[3]))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"model.norm": "batch"}, "model.norm: pefll makes parameters, and no running statistics"),
        ({"privacy.client": {"noise_multiplier": 1.0}}, "also answer queries"),
        ({"history.keep": "updates"}, "history.keep: clients of pefll are sent several messages"),
    ],
)
def test_what_it_cannot_do_is_refused(overrides, line):
    with pytest.raises(FedsimError, match=line):
        begin("pefll", overrides)
