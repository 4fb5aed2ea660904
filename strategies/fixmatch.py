"""FixMatch on every client, averaged: the semi-supervised baseline of FedLabel (arXiv:2001.07685).

Client: each step takes b labelled samples (x, y) and b unlabelled samples u, and descends
CE(s(w, x), y) + lambda_u * (1/b) sum_u [max s(w, u) > beta] CE(s(w, psi(u)), argmax s(w, u)).
The pseudo-label comes from the current model, without a gradient; psi is a strong augmentation.
Server: as FedAvg, weighted by a client's number of samples, labelled and unlabelled.

Differs from the paper: psi is `strategy.strong`, without Cutout. Unlabelled samples are not weakly augmented for their
pseudo-label. A step has as many unlabelled as labelled samples (the paper: mu = 7 times as many).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.data.config import StrongView
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras, Phase
from fedsim.flower.records import Tensors
from fedsim.training.objectives import pseudo_labels


class FixMatchConfig(StrategyConfig):
    """Options of FixMatch."""

    threshold: float = Field(0.95, ge=0, le=1)
    """beta, which the probability of a pseudo-label must exceed; with 1, no sample passes."""
    unlabelled_weight: float = Field(1.0, ge=0)
    """lambda_u."""
    strong: StrongView = StrongView()
    """psi."""


class FixMatchClient(Client):
    """SGD on labelled and unlabelled samples together."""

    needs_classes = True
    reports = ("loss_labelled", "loss_pseudo", "pseudo_labels:made")

    def phases(self) -> Sequence[Phase]:
        """Return the only phase, with samples of both streams."""
        strong = self.options(FixMatchConfig).strong
        return [Phase(self.loss, streams=("labelled", "unlabelled"), strong=strong)]

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return the loss of one step, its two terms, and the share of unlabelled samples above the threshold."""
        options, labelled = self.options(FixMatchConfig), batch.y >= 0
        assert batch.strong is not None
        logits = self.model.logits(params, buffers, batch.x, train=True)
        label, passed = pseudo_labels(logits.detach().softmax(-1), options.threshold)
        strong = self.model.logits(params, buffers, batch.strong, train=True)
        right = batch.mean_of(F.cross_entropy(logits, batch.y, reduction="none", ignore_index=-1), labelled)
        pseudo = batch.mean_of(passed * F.cross_entropy(strong, label, reduction="none"), ~labelled)
        kept = batch.mean_of(passed.to(right.dtype), ~labelled)
        return right + options.unlabelled_weight * pseudo, {
            "loss_labelled": right, "loss_pseudo": pseudo, "pseudo_labels:made": kept
        }  # fmt: skip


strategy(
    "fixmatch",
    FixMatchConfig,
    FixMatchClient,
    Server,
    metrics={
        "loss_labelled": "cross-entropy of samples with labels",
        "loss_pseudo": "cross-entropy of strong views against pseudo-labels",
        "pseudo_labels": "share of the unlabelled samples that got a pseudo-label",
    },
    run_defaults={
        "data.labelled_fraction": 0.2,
        "training.steps": 20,
        "training.batch_size": 32,
        "model.norm": "group",
    },
)
