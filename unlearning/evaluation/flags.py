"""Flags for damage that looks like good forgetting: over-forgotten and collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.scores import Array, as_values, predictions

MIN_FLAGGED = 10
"""Smallest number of losses on each side for a flag."""


@dataclass(frozen=True)
class OverForgotten:
    """Whether the loss on the forget set is larger than on never-seen data."""

    flag: bool
    excess: float
    """Mean forget loss - mean unseen loss, nats."""
    standard_error: float
    """Standard error of the excess (Welch), nats."""


@dataclass(frozen=True)
class Collapsed:
    """Whether nearly all predictions are one class."""

    flag: bool
    share: float
    """Share of the most frequent prediction, in [1/C, 1]."""
    label: int


def over_forgotten(forget: Array, unseen: Array, num_errors: float = 2.0) -> OverForgotten:
    """Judge losses (n,) of the forget set against (m,) of never-seen data of the same classes.

    By chance an oracle's forget loss is above the unseen one in half of the cases. So the flag requires an excess of
    `num_errors` standard errors (0: any excess), and `MIN_FLAGGED` losses on both sides: the spread of fewer losses
    is not reliable.
    """
    x, y = as_values(forget, "forget losses"), as_values(unseen, "unseen losses")
    excess = float(x.mean() - y.mean())
    variances = [float(side.var(ddof=1)) for side in (x, y) if len(side) > 1]
    spread = max(variances, default=excess**2)  # for a single loss: the other side's, or the squared difference
    error = float(np.sqrt(sum((side.var(ddof=1) if len(side) > 1 else spread) / len(side) for side in (x, y))))
    return OverForgotten(min(len(x), len(y)) >= MIN_FLAGGED and excess > num_errors * error, excess, error)


def collapsed(logits: Array, share: float = 0.9, several_labels: bool = False) -> Collapsed:
    """Judge logits (n, C), best of the test set: True where one class, or answer, has more than `share`."""
    counts = np.bincount(predictions(logits, several_labels))
    label = int(counts.argmax())
    top = float(counts[label] / counts.sum())
    return Collapsed(top > share, top, label)
