"""A reference that ignores its input: every method must be better."""

from __future__ import annotations

import numpy as np

from unlearning.evaluation.scores import Array, Floats, has_several_labels


def constant_logits(retain_labels: Array, num_classes: int, num_samples: int) -> Floats:
    """Return logits (num_samples, C) with equal rows: log((n_c + 1) / (n + C)) from the retain set's class counts.

    This is the smoothed constant with the smallest cross-entropy; it predicts the most frequent class of the retain
    set. For labels (n, L) it is log((n_l + 1) / (n - n_l + 1)).
    """
    if has_several_labels(retain_labels):
        holds = np.asarray(retain_labels, np.int64)
        return np.tile(np.log((holds.sum(0) + 1) / (len(holds) - holds.sum(0) + 1)), (num_samples, 1))
    counts = np.bincount(np.asarray(retain_labels, np.int64), minlength=num_classes)
    if len(counts) != num_classes:
        raise ValueError(f"labels go up to {len(counts) - 1}; there are {num_classes} classes")
    row = np.log((counts + 1) / (counts.sum() + num_classes))
    return np.tile(row, (num_samples, 1))
