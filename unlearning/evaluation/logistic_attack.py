"""Membership inference by logistic regression on the loss (NeurIPS-2023 starting kit; arXiv:2311.02240).

min_{w,b} w^2/2 + sum_i log(1 + exp(-y_i (w l_i + b))), no scaling; mean accuracy on the held-out tenth of 10 splits.

Differs from the authors' code: both sides are cut to the size of the smaller one, not only the forget side, so chance
is always 1/2. A split holds out the same positions of both sides, which makes the attack exactly symmetric.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from unlearning.evaluation.metric import Metric
from unlearning.evaluation.noise_floor import Attack, loss_sign, never_seen_halves
from unlearning.evaluation.scores import Array, Floats, Ints, as_values

METRICS = (
    Metric("mia_logistic", "MIA logistic", "attack by logistic regression on the loss, accuracy", "oracle", 0, 1,
           reading="above 0.5: remembered or over-forgotten; the sign says which"),
)  # fmt: skip

MIN_SIZE = 10
"""With fewer samples per side, a tenth of them is none."""
_TOLERANCE = 1e-10  # largest norm of the gradient
_NULL_SD = 0.54  # times 1/sqrt(n): the sd measured at n = 100, 240, 500, 1500 per side


def logistic_accuracy(forget: Array, unseen: Array, rng: np.random.Generator, splits: int = 10) -> float:
    """Return the cross-validated accuracy in [0, 1] of separating forget losses (n,) from unseen losses (m,)."""
    x, y = as_values(forget, "forget losses"), as_values(unseen, "unseen losses")
    size = min(len(x), len(y))
    if size < MIN_SIZE:
        raise ValueError(f"the logistic attack needs {MIN_SIZE} samples per side; got {len(x)} and {len(y)}")
    x, y = (side if len(side) == size else rng.permutation(side)[:size] for side in (x, y))
    held_out = max(1, round(size / 10))
    return float(np.mean([_held_out_accuracy(x, y, rng.permutation(size), held_out) for _ in range(splits)]))


def logistic_attack(
    forget: Array, unseen: Array, rng: np.random.Generator, halvings: int = 10, splits: int = 10
) -> Attack:
    """Return `logistic_accuracy` with its sign and noise; at least 10 samples per side.

    `halvings` of the never-seen data give the floor, with `splits` fits each; with fewer than 2 there is no floor.
    """

    def value(ours: Floats, theirs: Floats) -> float:
        return logistic_accuracy(ours, theirs, rng, splits)

    x, y = as_values(forget, "forget losses"), as_values(unseen, "unseen losses")
    size = min(len(x), len(y))
    return Attack(
        value=value(x, y),
        chance=0.5,
        standard_error=_NULL_SD / math.sqrt(size),
        sign=loss_sign(x, y),
        size=size,
        reading="above 0.5: told apart, remembered if the sign is -1, over-forgotten if it is +1; below 0.5: noise",
        floor=never_seen_halves(value, y, rng, halvings),
    )


def fit(values: Floats, members: Floats) -> tuple[float, float]:
    """Return (w, b) for losses (n,) and members (n,) of 0 and 1, both present."""
    share = members.mean()
    if abs(values @ (members - share)) <= _TOLERANCE:  # equal means: w = 0 is the optimum, where Newton's step is noise
        return 0.0, float(np.log(share / (1 - share)))
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=_TOLERANCE)
    with warnings.catch_warnings():
        for fallen_back in (ConvergenceWarning, LinAlgWarning):  # Newton's solver reports that L-BFGS continues
            warnings.simplefilter("ignore", fallen_back)
        model.fit(values[:, None], members)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _held_out_accuracy(x: Floats, y: Floats, order: Ints, held_out: int) -> float:
    test, train = order[:held_out], order[held_out:]
    values = np.concatenate([x[train], y[train]])
    center = values.mean()  # b is not penalised, so a shift only changes b; centring improves the condition
    w, b = fit(values - center, np.repeat([1.0, 0.0], len(train)))
    margin = w * (np.concatenate([x[test], y[test]]) - center) + b
    right = np.where(np.repeat([True, False], held_out), margin, -margin)
    return float(np.mean((right > 0) + 0.5 * (right == 0)))
