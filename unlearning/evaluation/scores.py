"""Scores of samples under a model: loss, margin, probabilities, prediction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Array = npt.ArrayLike


def as_logits(logits: Array) -> Floats:
    """Return logits (n, C) as float64; finite, n >= 1, C >= 2."""
    z = np.asarray(logits, np.float64)
    if z.ndim != 2 or len(z) == 0 or z.shape[1] < 2:
        raise ValueError(f"logits have shape {z.shape}; expected (n, C) with n >= 1 and C >= 2")
    if not np.isfinite(z).all():
        raise ValueError(f"{int((~np.isfinite(z)).any(1).sum())} of {len(z)} samples have logits that are not finite")
    return z


def has_several_labels(labels: Array) -> bool:
    """Return whether samples have several labels, (n, L) of 0 and 1, instead of one class, (n,)."""
    return np.ndim(labels) == 2


def as_labels(labels: Array, num_samples: int, num_classes: int) -> Ints:
    """Return labels (n,) of classes 0..C-1, or (n, C) of 0 and 1, as int64."""
    y = np.asarray(labels)
    if has_several_labels(y):
        if y.shape != (num_samples, num_classes) or not np.isin(y, (0, 1)).all():
            raise ValueError(f"labels have shape {y.shape}; expected ({num_samples}, {num_classes}) of 0 and 1")
        return y.astype(np.int64)
    if y.shape != (num_samples,) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels are {y.dtype} of shape {y.shape}; expected {num_samples} integers")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"labels lie in {y.min()}..{y.max()}; the logits have classes 0..{num_classes - 1}")
    return y.astype(np.int64)


def as_values(values: Array, what: str) -> Floats:
    """Return one finite number per sample, (n,) with n >= 1, as float64."""
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"{what} must be finite numbers, at least one, of shape (n,); got shape {x.shape}")
    return x


def margins(logits: Array, labels: Array) -> Floats:
    """Return m(x) = z_y - log sum_{j != y} exp z_j, (n,), any real number.

    It equals LiRA's phi(x) = log p_y - log sum_{j != y} p_j. For several labels, with the mean binary cross-entropy l
    as loss, it is the m with log(1 + exp(-m)) = l as well.
    """
    z = as_logits(logits)
    y = as_labels(labels, *z.shape)
    if has_several_labels(y):
        loss = np.maximum(np.logaddexp(0.0, (1 - 2 * y) * z).mean(1), np.finfo(np.float64).tiny)
        margin: Floats = -(loss + np.log(-np.expm1(-loss)))
        return margin
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    out: Floats = z[rows, y] - logsumexp(others, axis=1)
    return out


def losses(logits: Array, labels: Array) -> Floats:
    """Return the cross-entropy -log p_y in nats, (n,), at least 0; for several labels the mean over them.

    It is computed as log(1 + exp(-m)) of the margin m. This distinguishes losses below 1e-16, which the attacks rank.
    """
    out: Floats = np.logaddexp(0.0, -margins(logits, labels))
    return out


def log_probabilities(logits: Array) -> Floats:
    """Return log softmax, (n, C)."""
    z = as_logits(logits)
    out: Floats = z - logsumexp(z, axis=1, keepdims=True)
    return out


def label_pairs(logits: Array) -> Floats:
    """Return logits (n, L) of labels as those of n L samples with the two classes no and yes, (n L, 2)."""
    z = as_logits(logits)
    return np.stack([np.zeros_like(z), z], axis=2).reshape(-1, 2)


def predictions(logits: Array, several_labels: bool = False) -> Ints:
    """Return the class of the largest logit, (n,), the first of equal ones; for labels (n, L), a number per answer."""
    if several_labels:
        answers: Ints = np.unique(as_logits(logits) > 0, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        return answers
    out: Ints = as_logits(logits).argmax(1).astype(np.int64)
    return out
