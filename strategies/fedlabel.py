"""FedLabel: pseudo-label each unlabelled sample with the local or the global model (arXiv:2307.08809).

Every client has few labelled samples D_L and many unlabelled D_U; the server has none. s(w, x) are the softmax
probabilities of N classes, h their variance, psi a strong augmentation. Client k, from w = w_t:

1. w_L <- tau steps from w on CE(s(w_L, x), y), (x, y) in D_L; Delta_L = w_L - w            eq 1, 2
2. for x in D_U, not augmented, with both experts fixed, s_g = s(w, x) and s_l = s(w_L, x):
       s* = the one with the larger h (s_g if equal), s- = the other                        eq 3
       yhat = argmax s* if max s* > beta, else x is left out                                eq 4
       lambda = lambda_0 h(s-) / h(s*) if argmax s- = yhat, else 0                          eq 7
3. w_U <- tau' steps from w on CE(s(w_U, psi(x)), yhat) + lambda KL(s(w_U, x) || s-)        eq 5, 6, 8, 9
4. sends w + Delta_L + Delta_U, with Delta_U = w_U - w                                      eq 10
   and the weight r_k = |D_L| + number of samples that passed beta.
Server: w_{t+1} = sum_k r_k (w + Delta_k) / sum_k r_k.

The experts and their inputs are fixed in step 3, so step 2 is done once per round. Clients keep nothing between rounds.
There is no code by the authors. The paper calls s logits, but thresholds it in [0, 1]; here it is the softmax. The
paper does not specify three points. Here the batches of step 3 are drawn from the samples that passed, r_k counts each
of them once, and BatchNorm's buffers are the mean of both branches (a sum could make a variance negative). GroupNorm is
safer.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.data.config import StrongView
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Annotation, Batch, Extras, Phase, State, Update, per_client
from fedsim.flower.records import Tensors
from fedsim.privacy.ledger import Release, without
from fedsim.training.objectives import kl_divergence, pseudo_labels


class FedLabelConfig(StrategyConfig):
    """Options of FedLabel; tau is training.steps."""

    unlabelled_steps: int | None = Field(None, ge=1)
    """tau', steps on unlabelled samples; by default as many as on labelled samples."""
    threshold: float = Field(0.5, ge=0, le=1)
    """beta, which the probability of a pseudo-label must exceed; with 1, no sample passes."""
    penalty: float = Field(1.0, ge=0)
    """lambda_0, the largest weight of the divergence from the expert that was not chosen."""
    confidence: Literal["variance", "entropy"] = "variance"
    """h: variance of the probabilities, or 1 - entropy / log N."""
    expert: Literal["auto", "local", "global"] = "auto"
    """The more confident expert, or always the same one (the ablations of Table 1, with penalty 0)."""
    divergence: Literal["student", "expert"] = "student"
    """The first argument of the KL divergence: the student, as in the paper, or the expert."""
    divergence_input: Literal["clean", "strong"] = "clean"
    """The student's input for the divergence: the sample, as in the paper, or its strong view."""
    batches: Literal["passed", "all"] = "passed"
    """Batches of samples above the threshold, or of all samples; in the latter, those below count as 0 in the mean."""
    count: Literal["distinct", "drawn"] = "distinct"
    """What r_k counts: distinct samples, or samples as often as they are drawn."""
    strong: StrongView = StrongView()
    """psi."""


def confidence(s: Tensor, kind: str = "variance") -> Tensor:
    """Return h(s) of probabilities (..., N) -> (...): ||s||^2 / N - 1 / N^2, or 1 - H(s) / log N."""
    if kind == "variance":
        return s.var(-1, correction=0)
    entropy: Tensor = torch.special.entr(s).sum(-1)
    return (1 - entropy / math.log(s.shape[-1])).clamp_min(0)  # rounding may give below 0


def assimilate(global_logits: Tensor, local_logits: Tensor, options: FedLabelConfig) -> Annotation:
    """Return the samples to keep, with the notes `label` yhat, `log_other` log s-, `weight` lambda, and `local`.

    `local` is whether the local expert was chosen. Logits are (B, N) of the two experts.
    """
    s_g, s_l = global_logits.softmax(-1), local_logits.softmax(-1)
    h_g, h_l = confidence(s_g, options.confidence), confidence(s_l, options.confidence)
    local = {"auto": h_l > h_g, "local": torch.ones_like(h_g > 0), "global": torch.zeros_like(h_g > 0)}[options.expert]
    label, passed = pseudo_labels(torch.where(local[:, None], s_l, s_g), options.threshold)
    log_other = torch.where(local[:, None], global_logits, local_logits).log_softmax(-1)
    picked, other = torch.where(local, h_l, h_g), torch.where(local, h_g, h_l)
    ratio = other / picked.clamp_min(torch.finfo(picked.dtype).tiny)
    weight = options.penalty * ratio * (log_other.argmax(-1) == label)
    return Annotation(passed, {"label": label, "log_other": log_other, "weight": weight, "local": local})


_U = "unlabelled."


def _w_u(tensors: Tensors) -> Tensors:
    return {name.removeprefix(_U): value for name, value in tensors.items() if name.startswith(_U)}


class FedLabelClient(Client):
    """Trains w_L in place of the global model, then w_U beside it."""

    needs_classes = True
    reports = (
        "loss_labelled",
        "loss_pseudo",
        "loss_divergence",
        *(f"pseudo_labels:{one}" for one in ("local", "global", "neither", "right")),
    )

    def releases(self) -> list[Release]:
        """Return the base's releases, and the weights r_k, which depend on the samples."""
        weights = Release(
            what="weights r_k, how many samples passed the threshold", covers=("metrics/weight",),
            note="one number of each client in each round, without noise",
        )  # fmt: skip
        return [*map(partial(without, "metrics/weight"), super().releases()), weights]

    def personal(self, client: int, start: State) -> State:
        """Return w_U = w. It is not kept, so it starts from w in every round."""
        return State(*({f"{_U}{name}": value for name, value in part.items()} for part in start))

    def phases(self) -> Sequence[Phase]:
        """Return steps 1 and 3."""
        options = self.options(FedLabelConfig)
        labelled = Phase(self.labelled_loss, lambda name: not name.startswith(_U))
        unlabelled = Phase(
            self.unlabelled_loss,
            lambda name: name.startswith(_U),
            steps=options.unlabelled_steps,
            streams=("unlabelled",),
            strong=options.strong,
            annotate=self.annotate,
            leave_out=options.batches == "passed",
            audit=audit,
        )
        return [labelled, unlabelled]

    def labelled_loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return the loss of w_L."""
        loss, metrics = self.loss(params, buffers, extras, batch)
        return loss, {**metrics, "loss_labelled": loss}

    def annotate(self, params: Tensors, buffers: Tensors, extras: Extras, x: Tensor) -> Annotation:
        """Return step 2 for samples (B, ...), when w_U is still w."""
        s_g = self.model.logits(_w_u(params), _w_u(buffers), x, train=False)
        s_l = self.model.logits(params, buffers, x, train=False)
        return assimilate(s_g, s_l, self.options(FedLabelConfig))

    def unlabelled_loss(
        self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """Return the loss of w_U, with its two terms as metrics."""
        options, w_u, own = self.options(FedLabelConfig), _w_u(params), _w_u(buffers)
        assert batch.strong is not None
        kept = batch.notes.get("keep", torch.ones_like(batch.notes["weight"]))
        strong = self.model.logits(w_u, own, batch.strong, train=True)
        cross_entropy = batch.mean(kept * F.cross_entropy(strong, batch.notes["label"], reduction="none"))  # eq 5
        if not options.penalty:
            return cross_entropy, {"loss_pseudo": cross_entropy}
        clean = options.divergence_input == "clean"
        student = (self.model.logits(w_u, own, batch.x, train=True) if clean else strong).log_softmax(-1)
        pair = (student, batch.notes["log_other"])
        kl = kl_divergence(*(pair if options.divergence == "student" else pair[::-1]))
        agreement = batch.mean(kept * batch.notes["weight"] * kl)  # eq 6
        return cross_entropy + agreement, {"loss_pseudo": cross_entropy, "loss_divergence": agreement}  # eq 8

    def finish(self, update: Update, extras: Extras) -> Update:
        """Return w + Delta_L + Delta_U and r_k; keep nothing."""
        w_u, buffers_u = (_w_u(part) for part in update.kept)
        params = {name: update.sent[name] + (w_u[name] - w) for name, w in extras.start.items()}
        trained = update.drawn[:, 1] > 0
        buffers = {name: _mean_where(trained, update.sent[name], value) for name, value in buffers_u.items()}
        counted = update.samples if self.options(FedLabelConfig).count == "distinct" else update.drawn
        return update._replace(sent=params | buffers, kept=State({}, {}), weights=counted.sum(1))


def _mean_where(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return (a + b) / 2 in the selected rows, and a in the others."""
    return torch.where(per_client(rows.to(a.device), a), (a + b) / 2, a)


def audit(annotation: Annotation, labels: Tensor) -> Tensors:
    """Return the shares of samples pseudo-labelled by each expert, by neither, and correctly."""
    keep, local = annotation.keep, annotation.notes["local"]
    shares = {
        "pseudo_labels:local": keep & local,
        "pseudo_labels:global": keep & ~local,
        "pseudo_labels:neither": ~keep,
        "pseudo_labels:right": keep & (annotation.notes["label"] == labels),
    }
    return {name: which.float().mean() for name, which in shares.items()}


class FedLabelServer(Server):
    """Averages with the weights r_k."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the accuracy of the clients' pseudo-labels to the metrics."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if metrics and "pseudo_labels:right" in metrics:
            made = float(metrics["pseudo_labels:local"]) + float(metrics["pseudo_labels:global"])  # type: ignore[arg-type]
            if made:
                metrics["pseudo_labels:accuracy"] = float(metrics["pseudo_labels:right"]) / made  # type: ignore[arg-type]
        return arrays, metrics


strategy(
    "fedlabel",
    FedLabelConfig,
    FedLabelClient,
    FedLabelServer,
    metrics={
        "loss_labelled": "cross-entropy of samples with labels",
        "loss_pseudo": "cross-entropy of samples with pseudo-labels",
        "loss_divergence": "distance between the local and the global model's predictions",
        "pseudo_labels": "shares of unlabelled samples: pseudo-labelled by each expert or by neither, and correct ones",
    },
    run_defaults={
        "data.labelled_fraction": 0.2,
        "training.steps": 20,
        "training.batch_size": 32,
        "model.norm": "group",
    },
)
