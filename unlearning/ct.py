"""CT, convolution transpose: transpose every kernel, then fine-tune on the kept samples.

W[c, i, a, b] ← W[c, i, b, a] for each square kernel;  then min_θ E_{D_r} ℓ.
A winner of the NeurIPS 2023 unlearning challenge, measured in "Deep Unlearn" (arXiv:2410.01276).
"""

import numpy as np
import torch
from pydantic import Field
from torch import nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, repair


class CtConfig(RepairConfig):
    """Options of CT."""

    epochs: int = Field(20, ge=0, json_schema_extra=searched(5, 30))
    """Passes over the kept samples for the repair."""
    lr: float = Field(0.03, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD."""


def transpose_kernels(model: Classifier) -> None:
    """Swap the spatial axes of every square kernel larger than 1x1, in place; doing it twice is the identity.

    Raises
    ------
    FedsimError
        If there is no such kernel.
    """
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    square = [kernel for kernel in kernels if kernel.shape[2] == kernel.shape[3] > 1]
    if not square:
        raise FedsimError("--method ct: the model has no convolution of more than 1x1; use not or eu_k")
    with torch.no_grad():
        for kernel in square:
            kernel.copy_(kernel.transpose(2, 3).clone())


@unlearning("ct", CtConfig, Needs(forget_labels=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: CtConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, perturbed and repaired."""
    transpose_kernels(model)
    return repair(model, retain, config, rng)
