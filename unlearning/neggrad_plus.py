"""NegGrad+: descend on the kept samples while ascending on those to forget.

min_θ α ℓ(B_r) − (1−α) ℓ(B_f)   per pair of batches; an epoch passes once over D_r and repeats D_f as needed.
As in "Towards Unbounded Machine Unlearning" (arXiv:2302.09880).
Differs from the authors' code: the loss of a forgotten sample is capped at c log C, and forgotten samples do not change
the running statistics of batch norm.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.models.objective import mean_loss
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import (
    RepairConfig,
    capped_cross_entropy,
    descend,
    endless,
    kept_logits,
    opposed_logits,
    required,
    sgd,
    spawn_rng,
)


class NegGradPlusConfig(RepairConfig):
    """Options of NegGrad+."""

    defaults_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {kind: {"lr": 0.01} for kind in ("samples", "clients")}

    lr: float = Field(0.03, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD."""
    alpha: float = Field(0.8, ge=0, le=1, json_schema_extra=searched(0.5, 0.99))
    """Weight of the kept samples; 1 is exactly fine-tuning."""
    ceiling: float = Field(2.0, gt=0)
    """Loss, in units of log(number of classes), above which a forgotten sample has no effect."""


@unlearning("neggrad_plus", NegGradPlusConfig, Needs(one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: NegGradPlusConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model after simultaneous descent and ascent."""
    optimizer, others = sgd(model.parameters(), config), spawn_rng(rng)
    forgotten = endless(forget, config.batch_size, others)

    def losses() -> Iterator[Tensor]:
        pairs = zip(required(retain).batches(config.batch_size, rng), forgotten, strict=False)
        for (x, y), (x_f, y_f) in pairs:
            keep = mean_loss(kept_logits(model, x), required(y))
            lose = capped_cross_entropy(opposed_logits(model, x_f), required(y_f), config.ceiling)
            yield config.alpha * keep - (1 - config.alpha) * lose

    for _ in range(config.epochs):
        descend(losses(), optimizer)
    return model.eval()
