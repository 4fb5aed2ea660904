"""NoT: negate the weights of the first layers, then fine-tune on the kept samples.

θ_l ← −θ_l for the chosen layers l;  then min_θ E_{D_r} ℓ.
"NoT: Federated Unlearning via Weight Negation" (arXiv:2503.05657).
Differs from the paper: the fine-tuning is central; `not_federated` keeps it in the federation.
"""

import numpy as np
import torch
from pydantic import Field
from torch import nn

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, repair


class NotConfig(RepairConfig):
    """Options of NoT."""

    epochs: int = Field(20, ge=0, json_schema_extra=searched(5, 30))
    """Passes over the kept samples for the repair."""
    lr: float = Field(0.03, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD; negated weights are far from their old values, and 0.01 does not restore them in 10
    passes."""
    layers: int = Field(1, ge=0)
    """Number of layers to negate, convolutional or linear, counted from the input."""


def first_layers(model: Classifier, num_layers: int) -> list[str]:
    """Return the names of the weights and biases of the first convolutional or linear layers."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [f"{name}.{own}" for name, module in layers[:num_layers] for own, _ in module.named_parameters()]


def negate_first(model: Classifier, num_layers: int) -> None:
    """Negate weights and biases of the first convolutional or linear layers, in place; twice is the identity."""
    with torch.no_grad():
        for name in first_layers(model, num_layers):
            model.get_parameter(name).neg_()


@unlearning("not", NotConfig, Needs(forget_labels=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: NotConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, perturbed and repaired."""
    negate_first(model, config.layers)
    return repair(model, retain, config, rng)
