"""NegGrad: gradient ascent on the samples to forget; cheap, without kept samples, hard to stop in time.

Each batch of D_f moves θ by  η a ‖θ‖ g / ‖g‖,   g = ∇ mean_i min(ℓ_i(θ), c log C),   C classes,
a the share of the batch whose loss is below the cap: forgotten samples have no further effect, and nothing else has.
Differs from the common code: there is a cap c log C per sample (theirs has none and diverges). The length of a step
does not depend on how well the model is trained; plain ascent does not change a well trained model with tiny gradients,
and ruins another one at the same rate. There is no momentum, which would continue beyond the cap.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import capped, forgotten_logits, required


class NegGradConfig(UnlearningConfig):
    """Options of NegGrad.

    For an ordinary client, and for samples, keep the steps short: other clients have taught the same things, and
    nothing protects these. For what only one client has taught, use about ten times the default.
    """

    defaults_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {kind: {"lr": 3e-4} for kind in ("samples", "clients")}

    epochs: int = Field(10, ge=0, json_schema_extra=searched(1, 20))
    """Passes over the samples to forget."""
    batch_size: int = Field(64, ge=1)
    """Samples per step."""
    lr: float = Field(1e-2, gt=0, json_schema_extra=searched(3e-4, 3e-2))
    """η, the length of a step, relative to the length of all weights."""
    ceiling: float = Field(0.5, gt=0)
    """c, the loss, in units of log(number of classes), above which a sample has no effect; 1 is a uniform guess."""


def ascent(model: Classifier, losses: Tensor, ceiling: float) -> list[Tensor]:
    """Return a ‖θ‖ g / ‖g‖ for losses (B,), by parameter; 0 if no sample has an effect."""
    parameters = list(model.parameters())
    num_classes = model.classifier.out_features
    gradients = torch.autograd.grad(capped(losses, ceiling, num_classes), parameters)
    length, size = (torch.linalg.vector_norm(torch.cat([part.flatten() for part in parts])) for parts in
                    (gradients, parameters))  # fmt: skip
    share = (losses < ceiling * np.log(num_classes)).double().mean().to(length)
    factor = torch.where(length > 0, share * size / length.clamp(min=torch.finfo(length.dtype).tiny), 0)
    return [factor * gradient for gradient in gradients]


@unlearning("neggrad", NegGradConfig, Needs(retain=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: NegGradConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model after ascent on the forgotten samples' loss."""
    for _ in range(config.epochs):
        for x, y in forget.batches(config.batch_size, rng):
            losses = F.cross_entropy(forgotten_logits(model, x), required(y), reduction="none")
            steps = ascent(model, losses, config.ceiling)
            with torch.no_grad():
                for parameter, step in zip(model.parameters(), steps, strict=True):
                    parameter.add_(step, alpha=config.lr)
    return model.eval()
