"""The reference that looks at nothing: every method must beat it."""

from __future__ import annotations

import numpy as np

from unlearning.evaluation.scores import Array, Floats


def constant_logits(retain_labels: Array, num_classes: int, num_samples: int) -> Floats:
    """Return logits (num_samples, C), all rows alike: log((n_c + 1) / (n + C)) of the retain set's classes.

    The constant of the smallest cross-entropy, smoothed; it predicts the most frequent class of the retain set.
    """
    counts = np.bincount(np.asarray(retain_labels, np.int64), minlength=num_classes)
    if len(counts) != num_classes:
        raise ValueError(f"labels go up to {len(counts) - 1}; there are {num_classes} classes")
    row = np.log((counts + 1) / (counts.sum() + num_classes))
    return np.tile(row, (num_samples, 1))
