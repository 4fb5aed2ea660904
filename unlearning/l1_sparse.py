"""l1-sparse: fine-tune on the kept samples with a decaying l1 penalty; sparse models forget more easily.

min_θ E_{D_r} ℓ + α_e ‖θ‖₁,   α_e = α max(0, 1 − e / (E − E_0))   in epoch e of E; the last E_0 have no penalty.
"Model Sparsity Can Simplify Machine Unlearning" (arXiv:2304.04934).
"""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, descend, kept_losses, required, sgd


class L1SparseConfig(RepairConfig):
    """Options of l1-sparse."""

    alpha: float = Field(3e-4, ge=0, json_schema_extra=searched(1e-5, 3e-3))
    """α, the penalty in the first epoch; 0 is exactly fine-tuning."""
    free_epochs: int = Field(2, ge=0)
    """E_0, epochs without the penalty at the end."""


def penalty_at(epoch: int, alpha: float, epochs: int, free_epochs: int) -> float:
    """Return α_e of epoch 0, ..., epochs - 1."""
    return alpha * max(0.0, 1 - epoch / (epochs - free_epochs)) if epochs > free_epochs else 0.0


def l1_norm(model: Classifier) -> Tensor:
    """Return the sum of all weights' absolute values, shape ()."""
    return torch.stack([parameter.abs().sum() for parameter in model.parameters()]).sum()


@unlearning("l1_sparse", L1SparseConfig, Needs(forget_labels=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: L1SparseConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, fine-tuned and made sparser."""
    optimizer = sgd(model.parameters(), config)

    def losses(penalty: float) -> Iterator[Tensor]:
        for loss in kept_losses(model, required(retain), config.batch_size, rng):
            yield loss + penalty * l1_norm(model)

    for epoch in range(config.epochs):
        descend(losses(penalty_at(epoch, config.alpha, config.epochs, config.free_epochs)), optimizer)
    return model.eval()
