"""The loss of a sample, for one class or for several binary labels.

class c of C             -log softmax(z)_c                        y int64 (B,)
labels y_1..y_L          mean_l log(1 + exp(-(2 y_l - 1) z_l))    y uint8 (B, L), 0 and 1
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def has_several_labels(y: Tensor) -> bool:
    """Return whether targets are (B, L) labels, each 0 or 1, instead of one class or number per sample."""
    return y.dim() == 2 and not y.is_floating_point()


def label_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the labels of each sample, (B, L) and (B, L) -> (B,)."""
    return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none").mean(1)


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return each sample's loss, (B,), from logits (B, C) and classes (B,), or from (B, L) and labels (B, L)."""
    return label_losses(logits, y) if has_several_labels(y) else F.cross_entropy(logits, y, reduction="none")


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of `sample_losses`, shape ()."""
    return label_losses(logits, y).mean() if has_several_labels(y) else F.cross_entropy(logits, y)
