"""FedLoGe: one generic and K personal models from a shared backbone, under a global long tail (arXiv:2401.08977).

Notation: f = f_theta(x) the features, sg stop-gradient; V (C x d) the frozen sparse ETF classifier (SSE-C),
psi = (W_g, b_g) the auxiliary global head, phi_k = (W_k, b_k) the local head of client k, which never leaves it.

Stage 1, client k, E epochs:     l_s = CE(V f, y)                 moves theta only
                                 l_g = CE(W_g sg(f) + b_g, y)     moves psi only
                                 l_l = CE(W_k sg(f) + b_k, y)     moves phi_k only
         server:                 theta, psi <- means weighted by n_k
Stage 2, GLA-FR, no data:        W_GM[c] = W_g[c] * target / ||W_g[c]||           GM(x)   = argmax_c  W_GM f + b_g
                                 W_pm[c] = W_g[c] * ||W_k[c]||                    PM_k(x) = argmax_{c owned by k}
                                                                                          (W_k f + b_k) + (W_pm f + b_g)

The three losses share no parameters, so one backward pass of their sum is three separate steps.

Differs from the authors' code: V has no bias (theirs is random and never trained). Classes without training samples at
a client are masked in the logits (theirs: in the weights, which is the same only for features >= 0). A client owns the
classes of its training samples (theirs: of its test samples). The norm of V is 1 by default (theirs 0.1, which needs
BatchNorm and hundreds of rounds; the paper-scale presets set it).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras, Phase, State
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.models.etf import sparse_etf
from fedsim.randomness import generator, torch_draws, torch_seed


class FedLoGeConfig(StrategyConfig):
    """Options of FedLoGe."""

    sparsity: float = Field(0.6, ge=0, lt=1)
    """beta, the share of V's entries that are zero; 0 is the dense frame."""
    etf_norm: float = Field(1.0, gt=0)
    """gamma, the length of V's rows; smaller values start slower, and in deep networks reach higher accuracy."""
    etf_method: Literal["lbfgs", "adam"] = "lbfgs"
    """The solver for the sparse frame: exact, or as in the authors' code."""
    head_norm: float = Field(1.7, gt=0)
    """The row norm of W_GM after GLA-FR."""
    gla_bias: Literal["keep", "scale", "drop"] = "keep"
    """The effect of GLA-FR on b_g: unchanged, as published; scaled with its row; or set to 0."""


def realign_global(weight: Tensor, bias: Tensor, target: float, gla_bias: str) -> tuple[Tensor, Tensor]:
    """Return W_GM (C, d) and its bias (C,): every row of W_g scaled to the norm `target`."""
    scale = target / weight.norm(dim=1)
    biases = {"keep": bias, "scale": bias * scale, "drop": torch.zeros_like(bias)}
    return weight * scale[:, None], biases[gla_bias]


def realign_personal(weight: Tensor, local_weight: Tensor) -> Tensor:
    """Return W_pm (C, d): row c of W_g times the norm of row c of W_k."""
    norms: Tensor = local_weight.norm(dim=1)
    return weight * norms[:, None]


class FedLoGeClient(Client):
    """Trains theta, psi and phi_k side by side."""

    personalised = True
    masks_absent_classes = True
    reports = ("loss_etf", "loss_global", "loss_local")
    needs_classes = True

    def personal(self, client: int, start: State) -> State:
        """Return phi_k, a linear layer with torch's default initialisation, drawn for this client."""
        with torch_draws(torch_seed(self.config.seed, "local head", client)):
            head = torch.nn.Linear(self.feature_dim, self.num_classes)
        like = start.params["classifier.weight"]
        return State({f"local.{name}": value.detach().to(like) for name, value in head.named_parameters()}, {})

    def phases(self) -> Sequence[Phase]:
        """Return the only phase.

        `features.*`, `classifier.*` and `local.*` each have their own loss; `local.*` never leaves.
        """

        def part(name: str) -> str:
            return name.partition(".")[0]

        return [Phase(self.loss, objective=part, stays=lambda name: part(name) == "local")]

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return l_s + l_g + l_l for one batch, with each of them as a metric."""
        f = self.model.features(params, buffers, batch.x, train=True)
        sg_f = f.detach()
        l_s = batch.cross_entropy(f @ extras.constants["etf"].T)
        l_g = batch.cross_entropy(self.model.classify(params, sg_f))
        l_l = batch.cross_entropy(F.linear(sg_f, params["local.weight"], params["local.bias"]))
        return l_s + l_g + l_l, {"loss_etf": l_s, "loss_global": l_g, "loss_local": l_l}

    def plain(self, state: State, constants: Tensors) -> Tensors:
        """Return theta with the sum of PM_k's two classifiers."""
        p = state.params
        w_pm = realign_personal(p["classifier.weight"], p["local.weight"])
        both = {"weight": p["local.weight"] + w_pm, "bias": p["local.bias"] + p["classifier.bias"]}
        theta = {name: value for name, value in (p | state.buffers).items() if name.startswith("features.")}
        return theta | {f"classifier.{name}": value for name, value in both.items()}

    def heads(self, state: State, constants: Tensors, x: Tensor) -> Tensors:
        """Return the logits of PM_k, of phi_k alone and of psi alone."""
        p = state.params
        f = self.model.features(p, state.buffers, x, train=False)
        phi = F.linear(f, p["local.weight"], p["local.bias"])
        w_pm = realign_personal(p["classifier.weight"], p["local.weight"])
        return {
            "pm": phi + F.linear(f, w_pm, p["classifier.bias"]),
            "phi": phi,
            "psi": self.model.classify(p, f),
        }


class FedLoGeServer(Server):
    """Averages theta and psi; holds V; realigns psi into the generic model."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        options = self.options(FedLoGeConfig)
        rng = generator(config.seed, "etf")
        classes, dim = model.classifier.weight.shape
        etf = sparse_etf(classes, dim, options.sparsity, options.etf_norm, rng, options.etf_method)
        self.etf = etf.to(model.classifier.weight)

    def constants(self) -> Tensors:
        """Return V."""
        return {"etf": self.etf}

    def realigned(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """Return W_GM and its bias."""
        options = self.options(FedLoGeConfig)
        return realign_global(
            tensors["classifier.weight"], tensors["classifier.bias"], options.head_norm, options.gla_bias
        )

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return the logits of GM, of psi before realignment, and of V."""
        f = self.model.features(state.params, state.buffers, x, train=False)
        return {
            "gm": F.linear(f, *self.realigned(state.params)),
            "psi": self.model.classify(state.params, f),
            "sse": f @ self.etf.T,
        }

    def export(self, tensors: Tensors) -> Tensors:
        """Return theta with W_GM as the classifier."""
        weight, bias = self.realigned(tensors)
        return {**tensors, "classifier.weight": weight, "classifier.bias": bias}


strategy(
    "fedloge",
    FedLoGeConfig,
    FedLoGeClient,
    FedLoGeServer,
    shows=("global/accuracy", "global/accuracy_few", "clients/accuracy", "global_psi/accuracy", "global/accuracy_many"),
    metrics={
        "psi": "the auxiliary global head before GLA-FR",
        "phi": "each client's own head alone",
        "sse": "the frozen sparse ETF classifier",
        "loss_etf": "l_s, which moves the backbone",
        "loss_global": "l_g, which moves the auxiliary global head",
        "loss_local": "l_l, which moves each client's own head",
    },
    run_defaults={
        "data.imbalance_factor": 0.1,
        "model.norm": "group",
        "training.epochs": 5,
        "training.batch_size": 8,
        "training.lr": 0.03,
        "training.momentum": 0.5,
    },
)
