"""Random pruning: keep random channels, the same share of every group; the baseline for all other methods."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from unlearning.api.pruner import PrunerConfig, PruningTask, pruner
from unlearning.magnitude import ranked


class RandomConfig(PrunerConfig):
    """Random pruning has no options."""


@pruner("random", RandomConfig, samples=False)
def order(task: PruningTask, config: RandomConfig, rng: np.random.Generator) -> Mapping[str, Tensor]:
    """Return each channel's rank in a random order."""
    return {name: ranked(torch.from_numpy(rng.random(group.channels))) for name, group in task.groups.items()}
