"""MSG, masked small gradients: re-draw the weights that distinguish kept from forgotten least, then fine-tune.

g = ∇_θ (E_{D_r} ℓ − E_{D_f} ℓ);  the share ρ of convolution weights with the smallest |g| is drawn anew;
then min_θ E_{D_r} ℓ, with the gradients of all other weights times β.
A winner of the NeurIPS 2023 unlearning challenge, measured in "Deep Unlearn" (arXiv:2410.01276).
Differs from the authors' code: without convolutions, the linear layers of the feature extractor replace them. By
default ρ = 0.7 and β = 1, because their 0.3 and 0.1 hardly change a small model.
"""

import copy
from functools import partial

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.blocks import reset
from unlearning.parts.steps import RepairConfig, descend, extreme, kept_losses, mean_gradient, required, sgd, spawn_rng


class MsgConfig(RepairConfig):
    """Options of MSG."""

    epochs: int = Field(20, ge=0, json_schema_extra=searched(5, 30))
    """Passes over the kept samples for the repair."""
    lr: float = Field(0.03, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD."""
    share: float = Field(0.9, ge=0, le=1, json_schema_extra=searched(0.1, 0.9))
    """ρ, the share of convolution weights that are drawn anew."""
    damping: float = Field(1.0, ge=0, le=1)
    """β, the factor of the other weights' gradients."""


def kernel_names(model: Classifier) -> list[str]:
    """Return the names of all convolutions' weights; without convolutions, those of the hidden linear layers.

    Raises
    ------
    FedsimError
        If there are neither.
    """
    for kind in (nn.Conv2d, nn.Linear):
        names = [name for name, module in model.features.named_modules() if isinstance(module, kind)]
        if names:
            return [f"features.{name}.weight" for name in names]
    raise FedsimError("--method msg: the model has no hidden layer whose weights could be drawn anew; use neggrad_plus")


def redraw(model: Classifier, masks: dict[str, Tensor], rng: np.random.Generator) -> None:
    """Draw new initial values, in place, for the weights where the masks, by parameter name, are True."""
    fresh = copy.deepcopy(model)
    reset([fresh], rng)
    drawn = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.copy_(torch.where(masks[name], drawn[name], parameter))


@unlearning("msg", MsgConfig, Needs(one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: MsgConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, perturbed and repaired."""
    others = spawn_rng(rng)
    of_retain, of_forget = (
        mean_gradient(model, view, config.batch_size, others) for view in (required(retain), forget)
    )
    tells = {name: (of_retain[name] - of_forget[name]).abs() for name in kernel_names(model)}
    masks = extreme(tells, config.share, largest=False)
    redraw(model, masks, others)
    hooks = []
    for name, parameter in model.named_parameters():
        fresh = masks.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        factor = torch.where(fresh, 1.0, config.damping).to(parameter)
        hooks.append(parameter.register_hook(partial(torch.mul, factor)))  # type: ignore[no-untyped-call]  # torch's stub
    optimizer = sgd(model.parameters(), config)
    for _ in range(config.epochs):
        descend(kept_losses(model, required(retain), config.batch_size, rng), optimizer)
    for hook in hooks:
        hook.remove()
    return model.eval()
