"""NegGrad: gradient ascent on the samples to forget; cheap, without kept samples, hard to stop in time.

max_θ E_{D_f} min(ℓ(θ), c log C)   with C classes.
Differs from the common code: the cap c log C per sample (theirs has none and diverges), no weight decay.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, capped_cross_entropy, descend, forgotten_logits, required, sgd


class NegGradConfig(RepairConfig):
    """Options of NegGrad.

    A whole class costs the others some points: nothing holds them in place.
    """

    defaults_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        kind: {"lr": 1e-3, "ceiling": 0.5} for kind in ("samples", "clients")
    }

    epochs: int = Field(10, ge=0, json_schema_extra=searched(1, 20))
    """Passes over the samples to forget."""
    lr: float = Field(2e-3, gt=0, json_schema_extra=searched(2e-4, 2e-2))
    """Learning rate of SGD; very sensitive: twice as much can ruin a model and half of it leave it as it is, and what
    suits one model need not suit another."""
    weight_decay: float = Field(0, ge=0)
    """L2 penalty of SGD."""
    ceiling: float = Field(1.0, gt=0)
    """Loss, in units of log(number of classes), from which on a sample pushes no further; 1 is a uniform guess.
    With 0.5 the kept samples suffer less, and a well trained model may still be right."""


@unlearning("neggrad", NegGradConfig, Needs(retain=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: NegGradConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model after ascent on the forgotten samples' loss."""
    optimizer = sgd(model.parameters(), config)
    for _ in range(config.epochs):
        batches = forget.batches(config.batch_size, rng)
        descend(
            (-capped_cross_entropy(forgotten_logits(model, x), required(y), config.ceiling) for x, y in batches),
            optimizer,
        )
    return model.eval()
