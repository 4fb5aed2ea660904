"""Clients are asked for sums by messages; what comes of them is what all samples in one place would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from fedsim.config.resolve import resolve
from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData, federate
from fedsim.flower.records import to_tensors
from fedsim.models.base import Classifier
from fedsim.models.channels import channel_groups, narrowed
from fedsim.randomness import generator
from fedsim.training.data import training_data
from fedsim.training.first_model import build_run_model
from tests.declarations import undeclared
from unlearning.api.pruner import load_pruner
from unlearning.parts.cutting import Corrections, Target, cut
from unlearning.parts.layer_sums import LayerClient, LayerSums, ask_clients, ask_here

SHAPE = (1, 8, 8)


def federation(norm: str, partition: dict[str, Any]) -> tuple[RunConfig, FederatedData, Classifier, torch.Tensor]:
    """Return a run's configuration, its data, a model, and all that its clients hold as one batch."""
    config = resolve({
        "clients": 5, "seed": 3, "data.name": "digits", "data.max_per_class": 20, "data.partition": partition,
        "model": {"name": "cnn", "norm": norm, "width": 4}, "training.precision": "float64",
    })  # fmt: skip
    data = federate(config.data, config.clients, config.seed)
    model = build_run_model(config, data.dataset)
    model.train()
    rows = np.sort(data.partition.indices)
    x, _ = training_data(data, "none", torch.device("cpu"), torch.float64).batch(torch.from_numpy(rows), None)
    model(x)
    return config, data, model.eval(), x


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_sums_of_clients_are_those_of_all_samples_and_so_is_the_cut(norm: str) -> None:
    config, data, model, x = federation(norm, {"name": "pathological", "classes_per_client": 2, "equal": True})
    by_messages, in_one_place = ask_clients(config, data), ask_here(model, SHAPE, lambda: [x])
    for what in ("patches", "norms") if norm == "batch" else ("patches",):
        parts, whole = by_messages(what, model), in_one_place(what, model)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            assert (value - parts[name]).abs().max() <= 1e-10 * value.abs().max().clamp_min(1)
    pruner = load_pruner("modhifi_p")
    options = pruner.config(name="modhifi_p")
    small = [
        cut(model, SHAPE, pruner, options, Target("flops", 0.4), ask, Corrections(cuts=2), generator(0, "cut"))
        for ask in (by_messages, in_one_place)
    ]
    for name, value in small[0].state_dict().items():
        torch.testing.assert_close(value, small[1].state_dict()[name], rtol=1e-8, atol=1e-10)


def test_each_client_gets_the_model_and_sends_sums_alone() -> None:
    config, data, model, _ = federation("batch", {"name": "iid"})
    held = data.without(data.partition[2])
    replies: list[Message] = []
    ask_clients(config, held, replies.append)("patches", model)
    assert len(replies) == 4
    groups = channel_groups(model, SHAPE)
    readers = {consumer.name for group in groups.values() for consumer in group.consumers}
    sizes = [len(held.partition[client]) for client in (0, 1, 3, 4)]
    for reply, size in zip(replies, sizes, strict=True):
        assert reply.content["metrics"]["num-examples"] == size
        sums = to_tensors(reply.content["arrays"])
        assert set(sums) == {f"{name}/{part}" for name in readers for part in ("gram", "total", "count")}
        assert sums["classifier/count"] == size
    client = LayerClient(config, model)
    shown = [f"query.{what}/{layer}/gram" for what in client.queries() for layer in readers]
    assert undeclared(shown, client.releases()) == []


def test_a_narrowed_model_is_asked_about_through_the_layers_of_the_whole_one() -> None:
    _, _, model, x = federation("batch", {"name": "iid"})
    groups = channel_groups(model, SHAPE)
    small = narrowed(model, groups, {name: torch.arange(0, group.channels, 2) for name, group in groups.items()})
    through, own = LayerSums(model, SHAPE), LayerSums(small, SHAPE)
    for what in ("patches", "norms"):
        got, expected = (getattr(sums, what)(small.state_dict(), x) for sums in (through, own))
        assert all(torch.equal(value, got[name]) for name, value in expected.items())


def test_stages_do_not_matter_to_what_is_asked() -> None:
    """What is asked about is all that clients hold; a run's stages say what they train on in a round."""
    config, data, model, x = federation("none", {"name": "iid"})
    sums = ask_clients(config, replace(data, stages=None))("patches", model)
    assert sums["classifier/count"] == len(x)
