"""Datamodels: the effect of each unit of the training data on a prediction, from models trained on random subsets.

Units are clients, groups of samples, or samples. Model m is trained on the units of its mask z_m in {0, 1}^U; each unit
is kept with probability alpha. y_m are its outputs (logits or margins of many samples). A linear function is fitted,
    y(z) ~ b + sum_u z_u beta_u,        so leaving out F changes y by  -Delta_F = -sum_{u in F} beta_u.
"Datamodels" (arXiv:2202.00622); as targets of unlearning: "Attribute-to-Delete" (arXiv:2410.23232).

There are two estimators. Ridge regression chooses its penalty on held-out models. Differences of means,
beta_u = mean of y where z_u = 1 - mean of y where z_u = 0, are unbiased and noisy. A penalty shrinks beta, so Delta has
a scale kappa: the slope of outputs against predictions over held-out models, which is never fitted on a request.
A low R2 on masks is no bad sign, because most of y's variance is the noise of other seeds. What matters is agreement at
the share that is left out in use, so alpha is near 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_PENALTIES = np.geomspace(1e-4, 1e4, 25)  # times the mean of the nonzero squared singular values
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Datamodel:
    """A linear function of masks for T outputs."""

    effects: Floats
    """beta, (U, T): the effect of a unit's presence."""
    intercept: Floats
    """b, (T,)."""
    penalty: float = 0.0
    """The penalty of ridge regression; 0 for the other estimator."""
    scale: float = 1.0
    """kappa."""

    def predict(self, masks: Bools) -> Floats:
        """Return the outputs (M, T) of models trained on masks (M, U), without the scale."""
        return np.asarray(self.intercept + masks.astype(np.float64) @ self.effects, np.float64)

    def shift(self, units: Sequence[int] | npt.NDArray[np.int64]) -> Floats:
        """Return kappa Delta_F, (T,): the decrease of the outputs if these units are left out."""
        return np.asarray(self.scale * self.effects[np.asarray(units, np.int64)].sum(0), np.float64)


def draw_masks(units: int, share: float, rng: np.random.Generator) -> Bools:
    """Return the units on which a model is trained, (U,) bool: each with probability `share`, and at least one.

    Their number varies. With a constant number, the common effect of all units could not be separated from b.
    """
    mask = rng.random(units) < share
    mask[rng.integers(units)] |= not mask.any()
    return mask


def difference_of_means(masks: Bools, outputs: Floats) -> Datamodel:
    """Return beta_u = mean of outputs (M, T) over masks (M, U) with u, minus the mean over masks without u.

    A unit in all masks, or in none, gets the effect 0.
    """
    z = masks.astype(np.float64)
    inside, outside = z.sum(0)[:, None], (1 - z).sum(0)[:, None]
    means = z.T @ outputs / np.maximum(inside, 1) - (1 - z).T @ outputs / np.maximum(outside, 1)
    effects = np.where((inside > 0) & (outside > 0), means, 0.0)
    return Datamodel(effects, outputs.mean(0) - z.mean(0) @ effects)


def ridge(masks: Bools, outputs: Floats, penalty: float) -> Datamodel:
    """Return the least squares fit of outputs (M, T) on masks (M, U), with a penalty on beta but not on b."""
    z = masks.astype(np.float64)
    u, s, v = np.linalg.svd(z - z.mean(0), full_matrices=False)
    effects = v.T @ (_filter(s, penalty)[:, None] * (u.T @ (outputs - outputs.mean(0))))
    return Datamodel(effects, outputs.mean(0) - z.mean(0) @ effects, penalty)


def fit(masks: Bools, outputs: Floats, judged: Floats, rng: np.random.Generator) -> Datamodel:
    """Return the ridge fit of outputs (M, T), M at least 5, with penalty and scale from held-out models.

    Parameters
    ----------
    masks
        (M, U)
    outputs
        (M, T)
    judged
        (M, J) outputs for choosing penalty and scale, such as `without_offset` of logits
    rng
        divides the models into five folds
    """
    if len(masks) < _FOLDS:
        raise ValueError(f"a datamodel needs {_FOLDS} models or more; got {len(masks)}")
    squares = np.linalg.svd(masks - masks.mean(0), compute_uv=False) ** 2
    unit = float(squares[squares > 1e-9].mean()) if (squares > 1e-9).any() else 1.0
    penalties = unit * _PENALTIES
    errors, slopes = np.zeros(len(penalties)), np.zeros((len(penalties), 2))
    for fold in np.array_split(rng.permutation(len(masks)), _FOLDS):
        rest = np.setdiff1d(np.arange(len(masks)), fold)
        z, y = masks[rest].astype(np.float64), judged[rest]
        u, s, v = np.linalg.svd(z - z.mean(0), full_matrices=False)
        projected, seen = u.T @ (y - y.mean(0)), (masks[fold] - z.mean(0)) @ v.T
        truth = judged[fold] - y.mean(0)
        for number, penalty in enumerate(penalties):
            told = seen @ (_filter(s, penalty)[:, None] * projected)
            errors[number] += float(((truth - told) ** 2).sum())
            slopes[number] += float((told * truth).sum()), float((told**2).sum())
    best = int(errors.argmin())
    above, below = slopes[best]
    return replace(ridge(masks, outputs, float(penalties[best])), scale=above / below if below > 0 else 1.0)


def without_offset(logits: Floats) -> Floats:
    """Return logits (..., C) minus their mean over classes, which has no effect on a softmax."""
    return np.asarray(logits - logits.mean(-1, keepdims=True), np.float64)


def _filter(singular: Floats, penalty: float) -> Floats:
    """Return s / (s^2 + penalty), 0 where s is 0."""
    safe = singular > 1e-10 * max(float(singular.max(initial=0.0)), 1e-300)
    return np.where(safe, singular / np.where(safe, singular**2 + penalty, 1.0), 0.0)
