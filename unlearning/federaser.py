"""FedEraser: replay the kept rounds without the forgotten clients; short training gives directions, history lengths.

W: clients to forget; t_1 < t_2 < …: the kept rounds, Δt apart; U_k^t = θ_k^t − θ^t: the stored updates.
    θ̃^{t_1} = θ^{t_1} + Σ_{k∉W} p̃_k U_k^{t_1}                             the first round, as stored
    Û_k = r·E local epochs of client k from θ̃,  minus θ̃                   calibration
    Ũ_k = ‖U_k^{t_j}‖ · Û_k / (‖Û_k‖ + ε)
    θ̃ ← θ̃ + Σ_{k∉W} p̃_k Ũ_k,   p̃_k = n_k / Σ_{j∉W} n_j                 at t_2, t_3, …
"FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning Models" (IWQoS 2021, arXiv:2012.13891).
Differs: the paper also divides the sum by K − 1, although its weights sum to 1. The authors' code averages models
without weights, before it rescales each layer of the mean. Here each client is rescaled, over all its parameters (the
formula) or tensor by tensor, and the sum is the server's own aggregation. BatchNorm statistics are the average of those
of the calibrating clients. ε leaves a client at rest if it does not move. A client that keeps some of its samples
trains on those for all its epochs, and its update is not rescaled, because its stored update contains the other
samples.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.runs.history import SentModel, norm
from unlearning.api.federation import Federation, Round
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning

EPSILON = 1e-12


class FedEraserConfig(UnlearningConfig):
    """Options of FedEraser; Δt is the run's history.every."""

    calibration: float = Field(0.5, gt=0, le=1, json_schema_extra=searched(0.1, 1.0))
    """r, the share of the local epochs, or steps, for which calibrating clients train; at least one."""
    scale: Literal["client", "layer"] = "client"
    """What is rescaled as one vector: all parameters of a client, or each of its tensors."""


@unlearning(
    "federaser", FedEraserConfig, Needs(history=True, updates=True, clients=True), {"clients", "samples", "class"}
)
def unlearn(federation: Federation, config: FedEraserConfig) -> Tensors:
    """Return the global tensors of the calibrated replay."""
    if federation.epochs > 1 > config.calibration * federation.epochs:
        raise FedsimError(
            f"federaser.calibration: {config.calibration:g} of {federation.epochs} epochs is less than one; give at "
            f"least {1 / federation.epochs:.2g}"
        )
    first, *others = federation.rounds
    theta = first.model()
    if first.staying:
        theta = federation.aggregate(theta, first.number, _first(federation, first, theta))
    for kept in others:
        if kept.staying:
            sent = _calibrated(federation, kept, theta, config)
            theta = federation.aggregate(theta, kept.number, sent)
    return theta


def _first(federation: Federation, first: Round, theta: Tensors) -> Iterator[tuple[int, SentModel]]:
    """Yield the updates stored for the first round; clients with samples to forget send new ones."""
    anew = [client for client in first.staying if client not in first.untouched]
    sent = dict(federation.train(theta, first.number, anew)) if anew else {}
    for client in first.staying:
        if client in first.untouched:
            yield client, first.sent(client)
        elif client in sent:
            yield client, sent[client]


def _calibrated(
    federation: Federation, kept: Round, theta: Tensors, config: FedEraserConfig
) -> Iterator[tuple[int, SentModel]]:
    before = kept.model()
    anew = [client for client in kept.staying if client not in kept.untouched]
    if anew:
        yield from federation.train(theta, kept.number, anew)
    for client, sent in (
        federation.train(theta, kept.number, kept.untouched, config.calibration) if kept.untouched else ()
    ):
        stored = federation.update(kept.sent(client), before)  # U_k
        fresh = federation.update(sent, theta)  # Û_k
        yield client, federation.moved(sent, theta, rescaled(stored, fresh, config.scale))


def rescaled(stored: Tensors, fresh: Tensors, scale: str) -> Tensors:
    """Return Ũ: the direction of `fresh` with the length of `stored`, over all tensors or for each one."""
    groups = [list(fresh)] if scale == "client" else [[name] for name in fresh]
    return {
        name: fresh[name] * (norm({n: stored[n] for n in group}) / (norm({n: fresh[n] for n in group}) + EPSILON))
        for group in groups
        for name in group
    }
