"""How well a score separates two samples, and the values that chance alone gives."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from fedsim import evaluation
from fedsim.randomness import generator
from unlearning.evaluation.scores import Array, Floats, as_values


def auc(positive: Array, negative: Array) -> float:
    """Return P(s+ > s-) + P(s+ = s-) / 2 over all pairs, in [0, 1]: the area under the ROC curve (Mann-Whitney)."""
    pos, neg = as_values(positive, "scores"), as_values(negative, "scores")
    return evaluation.auc(np.concatenate([pos, neg]), np.arange(len(pos) + len(neg)) < len(pos))


def auc_null_sd(num_positive: int, num_negative: int) -> float:
    """Return the standard deviation of the AUC of equal distributions without ties, sqrt((n + m + 1) / (12 n m))."""
    n, m = num_positive, num_negative
    return math.sqrt((n + m + 1) / (12 * n * m))


def rates(positive: Array, negative: Array) -> tuple[Floats, Floats]:
    """Return (TPR, FPR), each (k,), of the rules "positive where score >= t" over all t, from (0, 0) to (1, 1)."""
    pos, neg = np.sort(as_values(positive, "scores")), np.sort(as_values(negative, "scores"))
    thresholds = np.unique(np.concatenate([pos, neg]))[::-1]
    tpr = 1 - np.searchsorted(pos, thresholds, "left") / len(pos)
    fpr = 1 - np.searchsorted(neg, thresholds, "left") / len(neg)
    return np.concatenate([[0.0], tpr]), np.concatenate([[0.0], fpr])


def best_balanced_accuracy(positive: Array, negative: Array) -> float:
    """Return the largest (TPR + TNR) / 2 over all thresholds, in [1/2, 1].

    It is 1/2 if the positives score below the negatives, as only one direction counts.
    """
    tpr, fpr = rates(positive, negative)
    return float((1 + (tpr - fpr).max()) / 2)


_SMALL = 200
"""With fewer samples of both sides together, the null is simulated: the limit below is off by .2 at one per side."""
_DRAWS = 20_000


@cache
def best_balanced_accuracy_null(num_positive: int, num_negative: int) -> tuple[float, float]:
    """Return (mean, sd) of `best_balanced_accuracy` for equal distributions without ties.

    The best threshold is chosen on the data, so the mean is above 1/2. sqrt(nm / (n+m)) max(TPR - FPR) is Smirnov's
    one-sided statistic; for large samples P(> x) -> exp(-2 x^2), a Rayleigh distribution with scale 1/2. Small samples
    are simulated, to within .001.
    """
    n, m = num_positive, num_negative
    if n + m >= _SMALL:
        scale = 0.5 / math.sqrt(n * m / (n + m))
        return 0.5 + 0.5 * scale * math.sqrt(math.pi / 2), 0.5 * scale * math.sqrt(2 - math.pi / 2)
    steps = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    walks = generator(0, "threshold null", n, m).permuted(np.tile(steps, (_DRAWS, 1)), axis=1).cumsum(axis=1)
    best = (1 + np.maximum(walks.max(axis=1), 0)) / 2
    return float(best.mean()), float(best.std())
