"""Accuracies over all samples and over each class."""

from __future__ import annotations

from typing import Literal

import numpy as np

from unlearning.evaluation.metric import Metric, percent
from unlearning.evaluation.scores import Array, Floats, as_labels, as_logits, has_several_labels


def _accuracy(split: str, head: str, *, brief: bool = False, reading: str = "") -> Metric:
    title = f"accuracy on the {split} set"
    better: Literal["oracle", "high"] = "oracle" if split == "forget" else "high"
    return Metric(f"accuracy_{split}", head, title, better, 0, 1, reading=reading, write=percent, brief=brief)


METRICS = (
    _accuracy("forget", "Forget", brief=True, reading="the target is the oracle's value, neither high nor low"),
    Metric("accuracy_earlier", "Earlier", "accuracy on the samples of earlier requests", "oracle", 0, 1,
           reading="far above the oracle's: the model remembers them again", write=percent, brief=True),
    _accuracy("retain", "Retain", brief=True),
    _accuracy("test", "Test", brief=True),
    _accuracy("unseen", "Unseen"),
    Metric("loss_forget", "Forget loss", "mean cross-entropy on the forget set", "oracle", 0, None, "nats"),
    Metric("loss_unseen", "Unseen loss", "mean cross-entropy on never-seen data", "low", 0, None, "nats"),
)  # fmt: skip


def accuracy(logits: Array, labels: Array) -> float:
    """Return A_S, the fraction of samples whose largest logit is the true class, in [0, 1].

    On the forget set this is FA; UA in the papers around SalUn is 1 - FA.
    """
    return float(right_answers(logits, labels).mean())


def class_accuracies(logits: Array, labels: Array) -> Floats:
    """Return the accuracy in [0, 1] of each class, (C,), NaN without samples; for several labels, of each label."""
    if has_several_labels(labels):
        of_labels: Floats = _right_labels(logits, labels).mean(0)
        return of_labels
    right = right_answers(logits, labels)
    num_classes = np.shape(logits)[1]
    y = np.asarray(labels, np.int64)
    totals = np.bincount(y, minlength=num_classes)
    hits = np.bincount(y, weights=right, minlength=num_classes)
    out: Floats = np.full(num_classes, np.nan)
    np.divide(hits, totals, out=out, where=totals > 0)
    return out


def right_answers(logits: Array, labels: Array) -> Floats:
    """Return 1 for each sample whose largest logit is the true class, else 0.

    For several labels, the share of right ones.
    """
    if has_several_labels(labels):
        shares: Floats = _right_labels(logits, labels).mean(1)
        return shares
    z = as_logits(logits)
    return np.asarray(z.argmax(1) == as_labels(labels, *z.shape), np.float64)


def _right_labels(logits: Array, labels: Array) -> Floats:
    z = as_logits(logits)
    return np.asarray((z > 0) == as_labels(labels, *z.shape), np.float64)
