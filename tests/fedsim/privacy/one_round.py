"""One private round of a tiny federation, with and without noise."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsim.config.resolve import resolve
from fedsim.runs.simulation import Simulation

Floats = npt.NDArray[np.float64]

TINY = {
    "clients": 3, "rounds": 1, "eval_every": 100, "model": {"name": "mlp", "hidden": [64]},
    "data": {"max_per_class": 9, "partition": "iid"},
    "training": {"epochs": 1, "batch_size": 99, "vectorize": "never", "chunk": 99},
}  # fmt: skip

LEVELS = {
    "client": {"privacy.client.clip_norm": 0.1, "privacy.client.delta": 1e-3},
    "example": {"privacy.example.max_grad_norm": 0.1, "privacy.example.delta": 1e-3},
}


def released(level: str, noise: float, **changes: Any) -> torch.Tensor:
    """Return the global model after a round."""
    key = f"privacy.{level}.noise_multiplier"
    simulation = Simulation(resolve(TINY, LEVELS[level], {key: noise, **changes}))
    state = simulation.begin()
    simulation.step(state, simulation.engine())
    return torch.cat([value.flatten() for value in state.tensors.values()]).double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.numpy(), b.numpy())[0, 1])
