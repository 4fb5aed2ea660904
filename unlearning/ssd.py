"""SSD, selective synaptic dampening: shrink the weights that matter more to the forgotten samples than to all.

Importance I_S = E_{batches of S} (∇_θ ℓ_batch)²;   where I_f > α I_D:  θ ← θ min(1, λ I_D / I_f).
"Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening" (arXiv:2308.07707).
Without a given α, the share of selected weights follows the size of the request, as in adaptive SSD (arXiv:2402.10098).
We take half of that share, because all of it costs small networks up to 5 points on kept samples. SSD can still ruin a
model: it does not repair weights that kept samples also need. There are many of these if a part of the network mostly
responds to the forgotten samples, as for a client with a backdoor (RESULTS.md: -48 points on one seed of three).
"""

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import batch_gradients, required, union


class SsdConfig(UnlearningConfig):
    """Options of SSD."""

    alpha: float | None = Field(None, ge=0, json_schema_extra=searched(1.0, 50.0))
    """α, how much more a weight must matter to the forgotten samples. The authors' 10 does not change some models and
    ruins others. By default, ln(1 + 100 n_f / n) / 2 percent of the weights are selected, n_f of n samples being
    forgotten; this also ruins some models, mainly if a backdoored client is to be forgotten."""
    dampening: float = Field(1.0, ge=0, json_schema_extra=searched(0.1, 1.0))
    """λ, the remaining size of a selected weight, relative to I_D / I_f."""
    batch_size: int = Field(64, ge=1)
    """Samples per gradient; 1 is the diagonal of the empirical Fisher matrix."""


def importance(model: Classifier, view: View, batch_size: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the mean over batches of the squared gradient of the batch's mean loss, by parameter."""
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    num_batches = -(-len(view) // batch_size)
    for _, gradients in batch_gradients(model, view, batch_size, rng):
        for name, gradient in gradients.items():
            total[name] += gradient.square() / num_batches
    return total


def dampened(theta: Tensor, forget: Tensor, everything: Tensor, alpha: float, dampening: float) -> Tensor:
    """Return the weights; those with I_f > α I_D are multiplied by min(1, λ I_D / I_f), the others keep their bits."""
    selected = forget > alpha * everything  # so I_f > 0 there
    factor = (dampening * everything / torch.where(selected, forget, 1)).clamp(max=1)
    return torch.where(selected, theta * factor, theta)


def adaptive_alpha(forget: dict[str, Tensor], everything: dict[str, Tensor], num_forget: int, num_all: int) -> float:
    """Return the α that selects ln(1 + 100 n_f / n) / 2 percent of the weights, those with the largest I_f / I_D."""
    tiny = torch.finfo(torch.float64).tiny
    ratios = torch.cat([(forget[n].double() / everything[n].double().clamp(min=tiny)).flatten() for n in forget])
    count = round(len(ratios) * math.log1p(100 * num_forget / num_all) / 200)
    return float(ratios.kthvalue(len(ratios) - min(count, len(ratios) - 1)).values)


@unlearning("ssd", SsdConfig, Needs(one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: SsdConfig, rng: np.random.Generator
) -> Classifier:
    """Return the dampened model."""
    of_forget = importance(model, forget, config.batch_size, rng)
    of_all = importance(model, union(required(retain), forget), config.batch_size, rng)
    alpha = config.alpha
    if alpha is None:
        alpha = adaptive_alpha(of_forget, of_all, len(forget), len(forget) + len(required(retain)))
    with torch.no_grad():
        for name, theta in model.named_parameters():
            theta.copy_(dampened(theta, of_forget[name], of_all[name], alpha, config.dampening))
    return model.eval()
