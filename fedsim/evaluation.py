"""Measures the global model on the global test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.datasets import Dataset
from fedsim.data.transforms import normalize
from fedsim.flower.records import Tensors, from_numpy
from fedsim.models.objective import has_several_labels, label_losses
from fedsim.own_metrics import OwnMetric

_BATCH, _BATCH_FLOATS = 500, 4_000_000  # samples per batch; fewer for large images, as layers' outputs are larger still
_MOST_NATS = 700.0  # exp of more overflows
_UNEVEN = 2.0  # if the sizes of test classes differ by less, accuracy hides little


@dataclass(frozen=True)
class HeadScore:
    """The score of one head on the test set."""

    accuracy: float
    """Accuracy in [0, 1]."""
    loss: float
    """Mean cross-entropy in nats; for several labels, the mean over the labels."""
    per_class: npt.NDArray[np.float64]
    """(C,) accuracy of each class, NaN without test samples; or accuracy of each label."""
    more: dict[str, float]
    """Metrics for classes of different sizes, see `imbalance_metrics`, if they are requested; for text, perplexity =
    exp(loss)."""

    own: dict[str, float] = field(default_factory=dict)
    """The user's own metrics."""

    def metrics(self, prefix: str, groups: dict[str, npt.NDArray[np.intp]]) -> dict[str, float]:
        """Return {metric name: value}; `groups` are the classes of each shot group."""
        out = {f"{prefix}/accuracy": self.accuracy, f"{prefix}/loss": self.loss}
        out |= {f"{prefix}/{name}": value for name, value in (self.more | self.own).items()}
        for group, classes in groups.items():
            if np.isfinite(self.per_class[classes]).any():
                out[f"{prefix}/accuracy_{group}"] = float(np.nanmean(self.per_class[classes]))
        return out


@dataclass(frozen=True)
class ErrorScore:
    """The score of one way to predict a number, on the test set."""

    loss: float
    """Mean squared error, in the units of the data set's targets."""
    r2: float
    """1 - loss / variance of the targets: 0 for predicting their mean, negative for worse predictions."""
    excess_risk: float | None
    """Mean squared distance to E[y | x], if that is known."""
    per_class: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """(0,): there are no classes."""
    own: dict[str, float] = field(default_factory=dict)
    """The user's own metrics."""

    def metrics(self, prefix: str, groups: dict[str, npt.NDArray[np.intp]]) -> dict[str, float]:
        """Return {metric name: value}."""
        out = {f"{prefix}/mse": self.loss, f"{prefix}/r2": self.r2}
        out |= {f"{prefix}/{name}": value for name, value in self.own.items()}
        return out if self.excess_risk is None else out | {f"{prefix}/excess_risk": self.excess_risk}


Score = HeadScore | ErrorScore


def head_metrics(
    where: str, scores: Mapping[str, Score], groups: dict[str, npt.NDArray[np.intp]] | None = None
) -> dict[str, float]:
    """Return the scores of several heads under metric names; the first one uses `where` alone as its prefix."""
    out: dict[str, float] = {}
    for number, (head, score) in enumerate(scores.items()):
        out |= score.metrics(where if number == 0 else f"{where}_{head}", groups or {})
    return out


class TestSet:
    """The global test set on a device, ready for predictions."""

    __test__ = False  # not a test case, although its name looks like one to pytest

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        metrics: Literal["auto", "accuracy", "all"] = "auto",
        own: Mapping[str, OwnMetric] | None = None,
    ) -> None:
        self.own = own or {}
        self.dtype = dtype
        self.imbalance = metrics == "all"
        self.is_text = dataset.is_text
        if metrics == "auto" and dataset.has_classes and not dataset.is_text:
            sizes = np.bincount(dataset.y_test, minlength=dataset.num_classes)
            self.imbalance = bool(dataset.num_classes == 2 or sizes.max() >= _UNEVEN * sizes.min())
        self.num_classes = dataset.num_classes
        self.x = from_numpy(dataset.x_test).to(device)
        self.y = from_numpy(dataset.y_test).to(device)
        self.truth = None if dataset.truth_test is None else torch.from_numpy(dataset.truth_test).to(device)
        self.mean, self.std = (torch.tensor(v, device=device) for v in (dataset.mean, dataset.std))

    @torch.no_grad()
    def score(self, heads: Callable[[Tensor], Tensors], seen: npt.NDArray[np.bool_] | None = None) -> dict[str, Score]:
        """Return the score of every head; `heads` maps inputs (B, ...) to {name: logits (B, C), or numbers (B, 1)}.

        Classes that are not in `seen` (C,) are neither tested nor predicted.
        """
        x_test, y, absent = self.x, self.y, None
        if seen is not None:
            known = torch.from_numpy(seen).to(y.device)
            x_test, y, absent = x_test[known[y]], y[known[y]], ~known
        parts: dict[str, list[Tensor]] = {}
        size = min(_BATCH, max(1, _BATCH_FLOATS // math.prod(x_test.shape[1:])))
        for x in torch.split(x_test, size):
            for head, logits in heads(normalize(x, self.mean, self.std, self.dtype)).items():
                parts.setdefault(head, []).append(logits if absent is None else logits.masked_fill(absent, -torch.inf))
        return {head: self._scored(torch.cat(outputs), y) for head, outputs in parts.items()}

    def _scored(self, outputs: Tensor, y: Tensor) -> Score:
        score: Score
        if y.is_floating_point():
            score = self._error(outputs)
        else:
            score = self._of_labels(outputs, y) if has_several_labels(y) else self._score(outputs, y)
        if not self.own:
            return score
        raw, targets = outputs.double().cpu().numpy(), y.cpu().numpy()
        return replace(score, own={name: metric(raw, targets) for name, metric in self.own.items()})

    def _error(self, outputs: Tensor) -> ErrorScore:
        predicted = outputs[:, 0].double()
        loss, null = float((predicted - self.y).square().mean()), float(self.y.double().var(correction=0))
        excess = None if self.truth is None else float((predicted - self.truth).square().mean())
        return ErrorScore(loss, 1 - loss / null if null else 0.0, excess)

    def _of_labels(self, logits: Tensor, y: Tensor) -> HeadScore:
        """Return the means over labels, and the accuracy of each label.

        A label is predicted if its logit is above 0.
        """
        right = ((logits > 0) == y.bool()).double().mean(0).cpu().numpy()
        scores, holds = logits.double().cpu().numpy(), y.bool().cpu().numpy()
        areas = [auc(scores[:, k], holds[:, k]) for k in range(y.shape[1]) if 0 < holds[:, k].sum() < len(holds)]
        imbalance = {"auc": float(np.mean(areas))} if areas else {}
        return HeadScore(float(right.mean()), float(label_losses(logits, y).mean()), right, imbalance)

    def _score(self, logits: Tensor, y: Tensor) -> HeadScore:
        right = (logits.argmax(1) == y).cpu().numpy()
        labels = y.cpu().numpy()
        totals = np.bincount(labels, minlength=self.num_classes)
        with np.errstate(invalid="ignore"):
            per_class = np.bincount(labels, weights=right, minlength=self.num_classes) / totals
        loss = float(F.cross_entropy(logits, y))
        more = imbalance_metrics(logits.double().log_softmax(1).cpu().numpy(), labels) if self.imbalance else {}
        if self.is_text:
            more["perplexity"] = math.exp(min(loss, _MOST_NATS))
        return HeadScore(float(right.mean()), loss, per_class, more)


def imbalance_metrics(log_probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return "balanced_accuracy", "f1_macro" and "auc", each in [0, 1], from log-probabilities (N, C) and labels (N,).

    They are means, over the classes in `labels`, of recall, of F1, and of the area under the ROC curve of the class
    against the rest. With two classes both areas are equal. F1 also counts classes that are only predicted, as 0. "auc"
    is missing if all samples are of one class. The values equal those of scikit-learn, which takes longer to import
    than a first round.
    """
    num_classes = log_probabilities.shape[1]
    cells = labels * num_classes + log_probabilities.argmax(1)
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    hits, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    there, counted = np.flatnonzero(actual), actual + predicted > 0
    out = {
        "balanced_accuracy": float((hits[there] / actual[there]).mean()),
        "f1_macro": float((2 * hits[counted] / (actual + predicted)[counted]).mean()),
    }
    if len(there) > 1:
        out["auc"] = float(np.mean([auc(log_probabilities[:, c], labels == c) for c in there]))
    return out


def auc(scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """Return P(s+ > s-) + P(s+ = s-) / 2 of scores (N,), over all pairs of a positive and a negative (Mann-Whitney)."""
    _, level, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (ties.cumsum() - (ties - 1) / 2)[level]
    n = np.count_nonzero(positive)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))
