"""GS-LoRA in the federation: clients train low-rank factors on their own samples, and send only these factors.

Server: one A for all layers, drawn once from a common seed; B ← 0. In each of R rounds it sends B to a cohort with at
least one client that has samples to forget, and sets
    B ← Σ_k n_k B_k / Σ_k n_k,   n_k the number of samples that client k uses.
Client: the next E / R of the schedule's E epochs on the loss of `gs_lora`, with its own AdamW. A client without samples
to forget has β = w_f = 0: it helps to retain. At the end W ← W + s B A.
With one A, the mean of the clients' changes is the change of the mean: mean(B_k A) = mean(B_k) A. With `average: both`
A is trained and averaged as well, and mean(B_k A_k) - mean(B_k) mean(A_k) is reported.
With `push` or `pull`, clients first send the sums of their features by class, once; from these the server computes the
prototypes (GS-LoRA++).

Neither paper (arXiv:2403.11530, arXiv:2501.09705) has a federation. Differs from `gs_lora`: with A fixed, a block's
norm is that of its B alone. Each client draws its own share of its samples, or shots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from unlearning.api.federation import Federation
from unlearning.api.local import Local, LocalWork
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.gs_lora import (
    Factors,
    FactorsConfig,
    effective,
    feature_sums,
    new_factors,
    perceptrons,
    some_samples,
    train_factors,
)


class GsLoraFederatedConfig(FactorsConfig):
    """Options of GS-LoRA in the federation."""

    rounds: int = Field(10, ge=1)
    """R, the number of rounds over which the epochs are divided."""
    clients_per_round: int | None = Field(None, ge=1)
    """Clients per round, at least one of them with samples to forget; all by default."""
    average: Literal["b", "both"] = "b"
    """The factors to train and average: B, which is exact, or also A."""


@unlearning("gs_lora_federated", GsLoraFederatedConfig, Needs(local=True), {"class"})
def unlearn(federation: Federation, config: GsLoraFederatedConfig) -> Tensors:
    """Return the global tensors with the averaged factors merged."""
    theta, local = federation.final(), federation.local
    model = federation.model(theta).requires_grad_(False)
    blocks = perceptrons(model, config.name)
    if not local.holders:
        raise FedsimError(
            f"--method {config.name}: clients with samples to forget hold no other samples, so none of them can "
            "retain anything; use gs_lora"
        )
    dtype = model.classifier.weight.dtype
    factors = new_factors(model, blocks, config.rank, local.rng("factors"))
    centres = _centres(model, local, config, dtype) if config.push or config.pull else None
    worst = 0.0
    for number in range(1, config.rounds + 1):
        span = range((number - 1) * config.epochs // config.rounds, number * config.epochs // config.rounds)
        train = partial(
            _trained, model=model, factors=factors, config=config, number=number, span=span, centres=centres
        )
        cohort, sent = local.cohort(number, config.clients_per_round), _packed(factors, config)
        replies = [reply for _, reply in local.ask("low-rank factors", number, cohort, train, sent, dtype)]
        factors, error = averaged(replies, factors)
        worst = max(worst, error)
    local.note("averaging_error", worst)
    with torch.no_grad():
        return theta | effective(model, factors)


def _trained(
    sent: Tensors, own: Local, *, model: Classifier, factors: Factors, config: GsLoraFederatedConfig, number: int,
    span: range, centres: Tensor | None,
) -> Tensors:  # fmt: skip
    """Return the factors after a client's epochs of the schedule, and the number of samples that it uses."""
    mine = _unpacked(sent, factors)
    forget, retain = _looked_at(own, config)
    rng = own.rng("batches", number)
    train_factors(model, mine, perceptrons(model), forget, retain, config, rng, span=span, centres=centres)
    return _packed(mine, config) | {"samples": torch.tensor(float(len(forget) + len(retain)))}


def averaged(replies: Sequence[Tensors], factors: Factors) -> tuple[Factors, float]:
    """Return the means of the clients' factors, and ‖mean(B A) - mean(B) mean(A)‖ / ‖mean(B A)‖ over all layers."""
    weights = torch.stack([reply["samples"] for reply in replies])
    weights = weights / weights.sum()
    mean = {name: _weighted([reply[name] for reply in replies], weights) for name in replies[0] if name != "samples"}
    found = _unpacked(mean, factors)
    each = [_unpacked(reply, factors) for reply in replies]
    apart = whole = 0.0
    with torch.no_grad():
        for name, (a, b) in found.items():
            product = _weighted([own[name][1] @ own[name][0] for own in each], weights)
            apart += float((product - b @ a).square().sum())
            whole += float(product.square().sum())
    return found, (apart / whole) ** 0.5 if whole else 0.0


def _weighted(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    return sum((w.to(value) * value for w, value in zip(weights, values, strict=True)), torch.zeros_like(values[0]))


def _packed(factors: Factors, config: GsLoraFederatedConfig) -> Tensors:
    """Return the parts that are sent: those that are trained."""
    travelling = {f"{name}.B": b for name, (_, b) in factors.items()}
    if config.average == "both":
        travelling |= {f"{name}.A": a for name, (a, _) in factors.items()}
    return {name: value.detach() for name, value in travelling.items()}


def _unpacked(sent: Mapping[str, Tensor], factors: Factors) -> Factors:
    """Return a client's own factors: the received parts, and otherwise the common A."""
    found = {}
    for name, (a, _) in factors.items():
        own_a = sent.get(f"{name}.A")
        a = a.detach() if own_a is None else own_a.clone().requires_grad_()
        found[name] = a, sent[f"{name}.B"].clone().requires_grad_()
    return found


def _looked_at(own: Local, config: GsLoraFederatedConfig) -> tuple[View, View]:
    """Return the samples that a client uses, the same in each round; at least one of each kind that it has."""
    draws = own.rng("samples")
    forget, retain = (
        some_samples(view, config, draws, frozenset()) if len(view) else view for view in (own.forget, own.retain)
    )
    return forget, retain


def _centres(model: Classifier, local: LocalWork, config: GsLoraFederatedConfig, dtype: torch.dtype) -> Tensor:
    """Return the mean features of each class over the samples that all clients use, (C, d)."""
    work = partial(_class_sums, model=model, config=config)
    replies = [reply for _, reply in local.ask("sums of features by class", 0, local.clients, work, {}, dtype)]
    sums, counts = (torch.stack([reply[name] for reply in replies]).sum(0) for name in ("sums", "counts"))
    return sums / counts.clamp_min(1)


def _class_sums(sent: Tensors, own: Local, model: Classifier, config: GsLoraFederatedConfig) -> Tensors:
    sums, counts = feature_sums(model, list(_looked_at(own, config)), config.batch_size)
    return {"sums": sums, "counts": counts}
