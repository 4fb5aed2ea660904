"""What clients' replies hold is what their method declares that it shows of their data."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedsim.federated.client import Client
from fedsim.federated.registry import describe
from fedsim.federated.types import Update
from fedsim.flower.records import scalars
from tests.declarations import undeclared
from tests.strategies.small_runs import begin, halves

METRICS = {"train": "metrics", "evaluate": "evaluation"}


def items_of(message: Message, reply: Message) -> Iterator[str]:
    """Yield the names of all that the reply to a message holds, as `Release.covers` has them."""
    kind, content = message.metadata.message_type, reply.content
    sent = {name for record in message.content.array_records.values() for name in record}
    for record in content.array_records.values():
        if kind in METRICS:
            yield from ("model" if name in sent else f"arrays/{name}" for name in record)
        else:
            yield from (f"{kind}/{name}" for name in record)
    for metrics in content.metric_records.values():
        yield from (f"{METRICS.get(kind, kind)}/{name}" for name in scalars(metrics))
    yield from (f"arrays/{key}" for key in content.config_records)  # none of ours sends any


def items_sent(method: str, overrides: dict[str, Any] | None = None) -> set[str]:
    """Run two rounds, of two stages where a method has them, with evaluation; return the items of all replies."""
    run = begin(method, {"rounds": 2, "eval_clients": "all", **(overrides or {})})
    items: set[str] = set()
    stream = run.engine.stream

    def spy(messages: Iterable[Message]) -> Iterator[Message]:
        messages = list(messages)
        assert messages
        for message, reply in zip(messages, stream(messages), strict=True):
            items.update(items_of(message, reply))
            yield reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.engine, "stream", spy)
        run.advance(2)
    return items


def declared(method: str) -> Any:
    return begin(method).simulation.worker.client.releases()


@pytest.mark.parametrize("method", sorted(describe("strategies")))
def test_replies_hold_nothing_undeclared(method):
    sent, releases = items_sent(method), declared(method)
    assert {"metrics/loss", "metrics/num-examples", "evaluation/accuracy"} <= sent
    assert ("model" in sent) == (method != "local")
    assert undeclared(sent, releases) == []
    for name in begin(method).simulation.worker.client.reports:  # and what is declared is sent
        assert f"metrics/{name}" in sent


MEASURING: dict[str, dict[str, Any]] = {"fedld": {"strategy.loss_parts": True}}
"""Options with which a server measures more than replies hold."""


@pytest.mark.parametrize("options", [{}, *MEASURING.values()])
def test_what_a_server_measures_of_updates_or_data_is_declared(options: dict[str, Any]) -> None:
    run = begin("fedld", options)
    run.advance(1)
    measured = {f"server/{name}" for name in run.simulation.server.measured}
    assert any(name.startswith("server/loss_parts:") for name in measured) == bool(options)
    assert measured
    assert undeclared(measured, run.state.ledger.releases) == []


def test_weights_that_depend_on_samples_are_no_public_numbers() -> None:
    """FedLabel's r_k, how many samples passed the threshold, is told as such and not as a number of samples."""
    releases = [release for release in declared("fedlabel") if release.matches("metrics/weight")]
    assert [release.what for release in releases] == ["weights r_k, how many samples passed the threshold"]
    public = [release for release in declared("fedavg") if release.matches("metrics/weight")]
    assert public
    assert all("threshold" not in release.what for release in public)


class Leaky(Client):
    def loss(self, params, buffers, extras, batch):
        value, metrics = super().loss(params, buffers, extras, batch)
        return value, {**metrics, "first_label": batch.y[0].float()}

    def finish(self, update: Update, extras: Any) -> Update:
        return update._replace(sent={**update.sent, "labels": torch.zeros(len(update.weights), 3)})


def test_what_is_not_declared_is_found():
    with halves("fedavg", client=Leaky):
        assert undeclared(items_sent("fedavg"), declared("fedavg")) == ["arrays/labels", "metrics/first_label"]


def test_what_protection_adds_to_replies_is_in_the_ledger():
    overrides = {
        "model.norm": "none",
        "privacy.client": {"noise_multiplier": 1.0, "clipping": "adaptive", "quantile_noise": 2.0},
        "privacy.example": {"noise_multiplier": 1.0},
    }
    sent = items_sent("fedavg", overrides)
    assert "arrays/privacy.unclipped" in sent
    assert undeclared(sent, begin("fedavg", overrides).state.ledger.releases) == []
    assert undeclared(sent, declared("fedavg")) == ["arrays/privacy.unclipped"]
