"""Terms that the local objectives of several methods share."""

import torch
from torch import Tensor

from fedsim.flower.records import Tensors


def proximal_penalty(params: Tensors, anchor: Tensors, mu: float) -> Tensor:
    """Return (mu/2) * sum_p ||params[p] - anchor[p]||^2, shape (), over the names in `anchor`."""
    return mu / 2 * torch.stack([(params[name] - value).square().sum() for name, value in anchor.items()]).sum()


def pseudo_labels(probabilities: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return each sample's most likely class, (B, C) -> (B,) int64, and whether it is above the threshold, (B,)."""
    top, label = probabilities.max(-1)
    return label, top > threshold


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) = sum_i p_i (log p_i - log q_i) of each sample, from log-probabilities (B, C) -> (B,)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
