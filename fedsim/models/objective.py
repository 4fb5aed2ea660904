"""The loss of a sample, whatever is to be predicted: a class, or several labels that hold or not.

class c of C             -log softmax(z)_c                        y int64 (B,)
labels y_1..y_L          mean_l log(1 + exp(-(2 y_l - 1) z_l))    y uint8 (B, L), 0 and 1
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def has_several_labels(y: Tensor) -> bool:
    """Return whether targets are (B, L) labels, each 0 or 1, and not one class or number for each sample."""
    return y.dim() == 2 and not y.is_floating_point()


def label_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over labels of each sample, (B, L) and (B, L) -> (B,)."""
    return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none").mean(1)


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each sample, (B,), of logits (B, C) and classes (B,), or (B, L) and labels (B, L)."""
    return label_losses(logits, y) if has_several_labels(y) else F.cross_entropy(logits, y, reduction="none")


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of `sample_losses`, shape ()."""
    return label_losses(logits, y).mean() if has_several_labels(y) else F.cross_entropy(logits, y)
