"""Two ways to look well forgotten that are damage: over-forgotten and collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.scores import Array, as_values, predictions

MIN_FLAGGED = 10
"""Fewest losses a side that are flagged."""


@dataclass(frozen=True)
class OverForgotten:
    """Whether the forget set fits worse than data that was never seen."""

    flag: bool
    excess: float
    """Mean forget loss - mean unseen loss, nats."""
    standard_error: float
    """Of the excess (Welch), nats."""


@dataclass(frozen=True)
class Collapsed:
    """Whether nearly all predictions are one class."""

    flag: bool
    share: float
    """Of the class predicted most, in [1/C, 1]."""
    label: int


def over_forgotten(forget: Array, unseen: Array, num_errors: float = 2.0) -> OverForgotten:
    """Judge losses (n,) of the forget set against (m,) of never-seen data of the same classes.

    An oracle's forget loss is above the unseen one half of the time by chance: the flag asks for `num_errors`
    standard errors, 0 for any excess, and for `MIN_FLAGGED` losses on both sides: of fewer no spread can be told.
    """
    x, y = as_values(forget, "forget losses"), as_values(unseen, "unseen losses")
    excess = float(x.mean() - y.mean())
    variances = [float(side.var(ddof=1)) for side in (x, y) if len(side) > 1]
    spread = max(variances, default=excess**2)  # of a single loss: that of the other side, or the difference itself
    error = float(np.sqrt(sum((side.var(ddof=1) if len(side) > 1 else spread) / len(side) for side in (x, y))))
    return OverForgotten(min(len(x), len(y)) >= MIN_FLAGGED and excess > num_errors * error, excess, error)


def collapsed(logits: Array, share: float = 0.9, several_labels: bool = False) -> Collapsed:
    """Judge logits (n, C), best of the test set: True where one class, or answer, has more than `share`."""
    counts = np.bincount(predictions(logits, several_labels))
    label = int(counts.argmax())
    top = float(counts[label] / counts.sum())
    return Collapsed(top > share, top, label)
