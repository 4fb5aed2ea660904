"""Forgetting quality of the NeurIPS-2023 challenge, from N unlearned and N retrained models.

Per forget sample: epsilon = max over decision rules of max(log((1 - d - FPR) / FNR), log((1 - d - FNR) / FPR)),
d = 1e-5. A rule with exactly one of the rates zero is dropped; both zero give infinity, capped at 50. A sample scores
2^-floor(2 epsilon) points while epsilon is below the last half-unit that N models can resolve, ceil(log(N - 1)); F is
the mean. There are two kinds of rules. One threshold: the side with the larger median is positive. Two thresholds: the
side with the smaller range is positive in between, and the interval's width is within 2 of that range. Ranges that
differ by a factor of a hundred give the cap.

Differs from the authors' code: all thresholds that the data distinguish are tried, not a grid of 0.01.
The highest expected score is not 1: two samples of one distribution give about 0.2. Always compare it with the value of
retraining against retraining.
"""

from __future__ import annotations

import math

import numpy as np

from unlearning.evaluation.metric import Metric
from unlearning.evaluation.scores import Array, Floats
from unlearning.evaluation.u_lira import as_ensemble

MIN_MODELS = 4
METRICS = (
    Metric("forgetting_quality", "F", "forgetting quality of the NeurIPS-2023 challenge", "high", 0, 1,
           reading="about 0.2 for equal distributions, so compare it with that value",
           models=MIN_MODELS, steady_from=64),
)  # fmt: skip

_DELTA, _CAP, _SLACK, _PEAKED = 1e-5, 50.0, 2.0, 0.01


def sample_epsilon(unlearned: Floats, retrained: Floats) -> float:
    """Return epsilon in [0, 50] of one sample from margins (N,) and (M,)."""
    ranges = [float(np.ptp(side)) for side in (unlearned, retrained)]
    if max(ranges) == 0:
        return 0.0 if unlearned[0] == retrained[0] else _CAP
    if min(ranges) / max(ranges) < _PEAKED:
        return _CAP
    points = np.unique(np.concatenate([unlearned, retrained]))
    u, r = (np.searchsorted(np.sort(side), points, "left") / len(side) for side in (unlearned, retrained))
    pos, neg = (u, r) if np.median(unlearned) >= np.median(retrained) else (r, u)
    one = _best_epsilon(fpr=1 - neg, fnr=pos)
    peaked, wide, width = (u, r, ranges[0]) if ranges[0] < ranges[1] else (r, u, ranges[1])
    left, right = np.triu_indices(len(points))
    fits = np.abs(points[right] - points[left] - width) <= _SLACK
    left, right = left[fits], right[fits] + 1
    peaked, wide = (np.append(side, 1.0) for side in (peaked, wide))
    two = _best_epsilon(fpr=wide[right] - wide[left], fnr=1 - (peaked[right] - peaked[left]))
    return min(max(one, two, 0.0), _CAP)


def epsilon_points(epsilon: Array, num_models: int) -> Floats:
    """Return the points in [0, 1] of each epsilon, shaped alike, for N models per side."""
    eps = np.asarray(epsilon, np.float64)
    limit = math.ceil(math.log(num_models - 1))
    return np.where(eps < limit, 2.0 ** -np.floor(2 * eps), 0.0)


def forgetting_quality(unlearned: Array, retrained: Array) -> float:
    """Return F in [0, 1] from margins (N, n) of unlearned and of retrained models, N at least 4."""
    u, r = as_ensemble(unlearned), as_ensemble(retrained)
    if u.shape != r.shape or len(u) < MIN_MODELS:
        raise ValueError(f"the score needs {MIN_MODELS} models per side, equally many; got {u.shape} and {r.shape}")
    eps = [sample_epsilon(a, b) for a, b in zip(u.T, r.T, strict=True)]
    return float(epsilon_points(eps, len(u)).mean())


def _best_epsilon(fpr: Floats, fnr: Floats) -> float:
    """Return the largest epsilon over rules, (k,) each; -inf if there is no valid rule."""
    fpr, fnr = (np.where(np.abs(rate) < 1e-12, 0.0, rate) for rate in (fpr, fnr))
    if ((fpr == 0) & (fnr == 0)).any():
        return math.inf
    kept = (fpr > 0) & (fnr > 0)
    if not kept.any():
        return -math.inf
    a, b = fpr[kept], fnr[kept]
    tiny = np.finfo(np.float64).tiny
    return float(np.log(np.maximum([(1 - _DELTA - a) / b, (1 - _DELTA - b) / a], tiny)).max())
