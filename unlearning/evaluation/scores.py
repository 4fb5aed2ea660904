"""What a model says of each sample: loss, margin, probabilities, prediction."""

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


def as_labels(labels: Array, num_samples: int, num_classes: int) -> Ints:
    """Return labels (n,) of classes 0..C-1 as int64, one per sample."""
    y = np.asarray(labels)
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
    """Return m(x) = z_y - log sum_{j != y} exp z_j, (n,), any real.

    It equals LiRA's phi(x) = log p_y - log sum_{j != y} p_j.
    """
    z = as_logits(logits)
    y = as_labels(labels, *z.shape)
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    out: Floats = z[rows, y] - logsumexp(others, axis=1)
    return out


def losses(logits: Array, labels: Array) -> Floats:
    """Return the cross-entropy -log p_y in nats, (n,), at least 0.

    As log(1 + exp(-m)) of the margin m, which keeps losses below 1e-16 apart: the attacks rank them.
    """
    out: Floats = np.logaddexp(0.0, -margins(logits, labels))
    return out


def log_probabilities(logits: Array) -> Floats:
    """Return log softmax, (n, C)."""
    z = as_logits(logits)
    out: Floats = z - logsumexp(z, axis=1, keepdims=True)
    return out


def predictions(logits: Array) -> Ints:
    """Return the class of the largest logit, (n,); the first of equals."""
    out: Ints = as_logits(logits).argmax(1).astype(np.int64)
    return out
