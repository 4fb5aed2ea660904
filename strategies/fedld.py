"""FedLD: margin control in local training, principal gradients in aggregation (arXiv:2408.12300).

Notation: Z (B x C) the logits of a batch, P = softmax(Z) by rows; w_i the model of client i of m, w the global one. For
each tensor of the model, g_i = w_i - w flattened, and G (m x d) has the rows g_i.

Client, margin-control regularisation (MCR):   min CE(Z, y) + penalty * R(Z),   R(Z) = log(1 + ||P||_F^2)
Server, principal-gradient aggregation (PG):   K = G G^T / m = E diag(lam) E^T,   lam_1 >= ... >= lam_m
        principal gradients                    v_j = G^T E_j / ||G^T E_j|| = G^T E_j / sqrt(m lam_j),   j <= k = kappa m
        revised local gradients                g~_i = sum_{j<=k} lam_j / (sum_l lam_l) ||g_i|| s_ij v_j
                                               s_ij = sign <g_i, v_j> = sign E_ij
        step                                   w <- w + server_lr * mean_i g~_i
The unweighted mean is used for tensors that have not moved yet (all of them in round 1), tensors with a single number,
and buffers.

Numbers of samples are not used. As ||g~_i|| = ||lam_{1..k}||_2 / ||lam||_1 ||g_i|| <= ||g_i||, the step shrinks as
clients differ more. `preserve_norm` gives it the length of the mean of the g_i, and `server_lr` may be above 1.

The formulas are those of the authors' code. Differences from it: 0/0 counts as 0, for a client that does not move a
tensor, or not along v_j, and for lam_j = 0; k is at least 1; any number of clients may answer. BatchNorm trains in
training mode (in their code, by accident, in evaluation mode: `bn_mode: eval`), and its statistics are never
decomposed. The calibration of signs before the revision has no effect in the authors' code, because g~_i is even in
v_j. `sign_mode: majority` is an interpretation of the paper's figure in which it has one: s_ij is the majority's sign.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.evaluation import TestSet
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Release

SignMode = Literal["code", "majority"]


class FedLDConfig(StrategyConfig):
    """Options of FedLD."""

    penalty: float = Field(0.1, ge=0)
    """lambda, the weight of R; 0 is no margin control."""
    mcr_reduction: Literal["batch", "sample"] = "batch"
    """R of the whole batch, as published, or the mean over its samples of log(1 + ||p_b||^2)."""
    bn_mode: Literal["train", "eval"] = "train"
    """Mode of the network in local training. eval, in which normalisation keeps its statistics, is the authors'."""
    aggregation: Literal["principal", "mean"] = "principal"
    """PG, or instead the unweighted mean."""
    kappa: float = Field(0.8, gt=0, le=1)
    """Share of the principal gradients to keep."""
    sign_mode: SignMode = "code"
    """The sign of a revised gradient: the client's own, as published, or the majority's."""
    pg_scope: Literal["tensor", "layer", "model"] = "tensor"
    """The tensors that are decomposed together; tensor as published."""
    preserve_norm: bool = False
    """Give every decomposed step the length of the unweighted mean."""
    server_lr: float = Field(1.0, gt=0)
    """Step size of the server along the aggregate."""
    loss_parts: bool = False
    """Report L(w) = mean L_k(w_k) + mean [L(w_k) - L_k(w_k)] + [L(w) - mean L(w_k)], at m + 1 evaluations per round."""


def margin_penalty(logits: Tensor, batch: Batch, reduction: str) -> Tensor:
    """Return R(Z) of logits Z (B, C), shape (): log(1 + ||P||_F^2), or the mean over samples of log(1 + ||p_b||^2)."""
    squares = logits.softmax(1).square().sum(1)
    if reduction == "sample":
        return batch.mean(squares.log1p())
    if batch.mask is not None:
        squares = squares * batch.mask
    return squares.sum().log1p()


def num_kept(m: int, kappa: float) -> int:
    """Return k, the number of principal gradients to keep out of m."""
    return max(1, int(m * kappa + 1e-9))


def principal_weights(gram: Tensor, kappa: float, sign_mode: SignMode = "code", preserve_norm: bool = False) -> Tensor:
    """Return c (m,), with which the aggregate of PG, mean_i g~_i, is sum_i c_i g_i, as it is in the span of the g_i.

    `gram` is K (m, m), float64 on the CPU, so that a nearly degenerate spectrum does not depend on the device.
    """
    m, total = len(gram), gram.trace()
    lam, e = (part.flip(-1) for part in torch.linalg.eigh(gram))  # e[:, j] goes with lam[j]
    usable = (torch.arange(m) < num_kept(m, kappa)) & (lam > 1e-12 * lam[0])  # none if no client moved
    lam, e = lam[usable], e[:, usable]
    norms = (m * gram.diagonal()).sqrt()  # ||g_i||
    s = _sign(e)
    if sign_mode == "majority":
        majority = s.sum(0).sign()
        s = torch.where(majority != 0, majority, _sign(e.sum(0))).expand(m, -1)  # a tie is decided by sum_i <g_i, v_j>
    length = lam / total * (norms[:, None] * s).mean(0)  # length of the aggregate along v_j
    c: Tensor = e @ (length / (m * lam).sqrt())
    if preserve_norm and len(lam):
        mean_square, step_square = gram.sum() / m, m * c @ gram @ c
        c = c * (mean_square.clamp_min(0) / step_square).sqrt() if step_square > 0 else c
    return c


def _sign(projection: Tensor) -> Tensor:
    """Return the sign of coordinates of unit vectors; 0 for rounding errors."""
    return torch.where(projection.abs() > 1e-9, projection.sign(), 0.0)


class FedLDClient(Client):
    """SGD on the local loss with the margin penalty."""

    reports = ("margin_penalty",)

    def releases(self) -> list[Release]:
        """Return the base's releases, the server's measures of updates, and the losses if `loss_parts` is set."""
        base = [
            release.model_copy(update={"covers": (*release.covers, "server/updates:*")}) if "model" in release.covers
            else release
            for release in super().releases()
        ]  # fmt: skip
        if not self.options(FedLDConfig).loss_parts:
            return base
        losses = Release(
            what="losses of models on the clients' training data", covers=("server/loss_parts:*",),
            note="measured by the server, which reads that data for it, and reported without noise",
        )  # fmt: skip
        return [*base, losses]

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return CE + penalty * R for one batch, with R as a metric."""
        options = self.options(FedLDConfig)
        logits = self.model.logits(params, buffers, batch.x, train=options.bn_mode == "train")
        r = margin_penalty(logits, batch, options.mcr_reduction)
        return batch.cross_entropy(logits) + options.penalty * r, {"margin_penalty": r}


class FedLDServer(Server):
    """Aggregates by principal gradients."""

    replies = "updates"

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        self.moved = dict.fromkeys(self.first.params, False)
        """{tensor: whether it has ever moved}."""

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return which tensors have moved."""
        return {}, {"moved": self.moved}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore which tensors have moved."""
        self.moved = {name: values["moved"][name] for name in self.first.params}

    def aggregate(self, updates: Iterator[tuple[Tensors, float]]) -> Tensors | None:
        """Return the means, with PG for each parameter that has moved before; measure the matrix of updates."""
        options = self.options(FedLDConfig)
        sent = [tensors for tensors, _ in updates]
        result = super().aggregate((tensors, 1.0) for tensors in sent)
        if result is None:
            return None
        m = len(sent)
        w = {name: self.current[name].to(result[name]) for name in self.moved}
        spectrum = _Spectrum(m)
        for names in self._scopes():
            g = torch.stack([torch.cat([(wi[n] - w[n]).flatten() for n in names]) for wi in sent]).double()
            gram = g @ g.T / m
            c = None
            if options.aggregation == "principal" and g.shape[1] > 1 and any(self.moved[name] for name in names):
                c = principal_weights(gram, options.kappa, options.sign_mode, options.preserve_norm)
                parts = torch.split(c @ g, [w[name].numel() for name in names])
                result |= {n: (w[n] + part.view_as(w[n])).to(w[n]) for n, part in zip(names, parts, strict=True)}
            spectrum.add(gram, c, options.kappa)
        self.moved = {name: moved or not torch.equal(result[name], w[name]) for name, moved in self.moved.items()}
        result |= {name: torch.lerp(w[name], result[name], options.server_lr) for name in w}
        self.measured = spectrum.measures() | (self._loss_parts(sent, result) if options.loss_parts else {})
        return result

    @classmethod
    def reads_training_data(cls, config: RunConfig) -> bool:
        """Return whether `loss_parts` is set."""
        return config.strategy.loss_parts if isinstance(config.strategy, FedLDConfig) else False

    def _scopes(self) -> list[list[str]]:
        """Return the names of the parameters, grouped by joint decomposition."""
        scope = self.options(FedLDConfig).pg_scope
        keys = {"tensor": lambda name: name, "layer": lambda name: name.rpartition(".")[0], "model": lambda name: ""}
        return [list(names) for _, names in itertools.groupby(self.moved, keys[scope])]

    def _loss_parts(self, sent: Sequence[Tensors], aggregated: Tensors) -> dict[str, float]:
        """Return the parts of the global loss on the clients' training data.

        All clients that answered weigh the same.
        """
        data, like = self.data.dataset, next(iter(self.first.params.values()))
        rows = [self.data.partition[client] for client in self.senders]
        own = [replace(data, x_test=data.x_train[some], y_test=data.y_train[some]) for some in rows]
        sets = [TestSet(dataset, like.device, like.dtype) for dataset in own]

        def losses(tensors: Tensors) -> list[float]:
            state = self.split({name: value.to(like.device) for name, value in tensors.items()})
            return [some.score(lambda x: self.heads(state, x))["model"].loss for some in sets]

        each = np.array([losses(tensors) for tensors in sent])  # L_k(w_i) at (i, k)
        total, of_locals, local = float(np.mean(losses(aggregated))), float(each.mean()), float(each.diagonal().mean())
        parts = {"local": local, "shift": of_locals - local, "aggregation": total - of_locals, "total": total}
        return {f"loss_parts:{name}": value for name, value in parts.items()}


class _Spectrum:
    """Measures of the updates and of the step, from the Gram matrices of a round."""

    _LEADING = 5

    def __init__(self, m: int) -> None:
        self.gram = torch.zeros(m, m, dtype=torch.float64)
        self.kept = self.step = 0.0

    def add(self, gram: Tensor, c: Tensor | None, kappa: float) -> None:
        """Add a group of tensors with the weights of its step; None for the mean."""
        m = len(gram)
        self.gram += gram
        self.kept += float(gram.trace() if c is None else torch.linalg.eigvalsh(gram)[-num_kept(m, kappa) :].sum())
        self.step += float(gram.sum() / m if c is None else m * c @ gram @ c)

    def measures(self) -> dict[str, float]:
        """Return shares of the updates' squared norm, leading and kept, and the step's norm divided by the mean's."""
        total, mean = float(self.gram.trace()), float(self.gram.sum()) / len(self.gram)
        if not total > 0:
            return {}
        shares = torch.linalg.eigvalsh(self.gram).flip(0)[: self._LEADING] / total
        leading = {f"updates:energy_{j}": float(share) for j, share in enumerate(shares, 1)}
        ratio = {"updates:norm_ratio": (max(self.step, 0.0) / mean) ** 0.5} if mean > 0 else {}
        return leading | {"updates:energy_kept": self.kept / total} | ratio


strategy(
    "fedld",
    FedLDConfig,
    FedLDClient,
    FedLDServer,
    metrics={
        "margin_penalty": "R, the penalty on margins",
        "updates": "shares of clients' updates in leading and in kept directions, and the step's length",
        "loss_parts": "changes of the loss by parts of the update",
    },
    run_defaults={
        "training.epochs": 1,
        "training.batch_size": 50,
        "training.lr": 0.01,
        "training.momentum": 0.5,
        "training.weight_decay": 5e-4,
    },
)
