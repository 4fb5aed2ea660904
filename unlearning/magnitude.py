"""Magnitude pruning: keep the channels whose filters have the largest norms; needs no samples.

A channel's norm is that of all weights that produce it, over all layers that are added to it, ‖W_i‖₁ or ‖W_i‖₂.
Channels are ranked within their group, so every group loses the same share.
L1: "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710). L2 is the usual variant.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from unlearning.api.pruner import PrunerConfig, PruningTask, pruner


class MagnitudeConfig(PrunerConfig):
    """Magnitude pruning has no options."""


def ranked(scores: Tensor) -> Tensor:
    """Return each entry's rank among scores (N,), highest first, in [0, 1)."""
    return scores.argsort(descending=True, stable=True).argsort().double() / len(scores)


def _by_norm(task: PruningTask, power: int) -> Mapping[str, Tensor]:
    found = {}
    for name, group in task.groups.items():
        total = torch.zeros(group.channels, dtype=torch.float64)
        for producer in group.producers:
            weight = task.model.get_parameter(f"{producer}.weight").detach().double().cpu()
            total += weight.flatten(1).abs().pow(power).sum(1)
        found[name] = ranked(total)
    return found


@pruner("l1", MagnitudeConfig, samples=False)
def by_l1(task: PruningTask, config: MagnitudeConfig, rng: np.random.Generator) -> Mapping[str, Tensor]:
    """Return each channel's rank by ‖W_i‖₁."""
    return _by_norm(task, 1)


@pruner("l2", MagnitudeConfig, samples=False)
def by_l2(task: PruningTask, config: MagnitudeConfig, rng: np.random.Generator) -> Mapping[str, Tensor]:
    """Return each channel's rank by ‖W_i‖₂²."""
    return _by_norm(task, 2)
