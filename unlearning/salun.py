"""SalUn: random labels, but only the weights that the forgotten samples' loss depends on most may move.

m = 1 for the share τ of all weights with the largest |∇_θ E_{D_f} ℓ(θ_o)|;  after every step
θ = m ⊙ θ_RL + (1−m) ⊙ θ_o.
"SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency" (arXiv:2310.12508).
Differs from the authors' code before 2026-02-28, in which momentum and weight decay moved the masked weights. Batch
norm keeps the original's statistics.
"""

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import (
    RepairConfig,
    descend,
    extreme,
    mean_gradient,
    other_labels,
    relabelled_losses,
    required,
    sgd,
    spawn_rng,
)


class SalUnConfig(RepairConfig):
    """Options of SalUn."""

    threshold: float = Field(0.5, ge=0, le=1, json_schema_extra=searched(0.1, 1.0))
    """τ, the share of weights that may move; 1 is exactly random labels."""


def restore(model: Classifier, original: dict[str, Tensor], salient: dict[str, Tensor]) -> None:
    """Restore the original weights, in place, wherever `salient` is False."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.where(salient[name], parameter, original[name]))


@unlearning("salun", SalUnConfig, Needs(one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: SalUnConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with its salient weights fine-tuned on right and wrong labels."""
    optimizer, others = sgd(model.parameters(), config), spawn_rng(rng)
    wrong = replace(forget, y=other_labels(required(forget.y), model.classifier.out_features, others))
    original = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradient = mean_gradient(model, forget, config.batch_size, spawn_rng(others))
    salient = extreme({name: value.abs() for name, value in gradient.items()}, config.threshold, largest=True)
    optimizer.register_step_post_hook(lambda *_: restore(model, original, salient))
    for _ in range(config.epochs):
        descend(relabelled_losses(model, wrong, required(retain), config.batch_size, rng, others), optimizer)
    return model.eval()
