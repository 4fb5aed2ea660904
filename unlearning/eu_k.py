"""EU-k: exact unlearning of the last k blocks: re-initialise these and the classifier, train them on the kept samples.

"Towards Adversarial Evaluations for Inexact Machine Unlearning" (arXiv:2201.06640).
Differs from the common code: every weight of the blocks is drawn anew, at any depth. The frozen blocks also keep the
running statistics of batch norm.
"""

import numpy as np
from pydantic import Field

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.blocks import TailConfig, repair_tail, reset, tail
from unlearning.parts.steps import spawn_rng


class EukConfig(TailConfig):
    """Options of EU-k."""

    epochs: int = Field(20, ge=0, json_schema_extra=searched(5, 30))
    """Passes over the kept samples."""
    lr: float = Field(0.03, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD."""


@unlearning("eu_k", EukConfig, Needs(forget_labels=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: EukConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with its last blocks trained from new weights."""
    reset(tail(model, config.blocks), spawn_rng(rng))
    return repair_tail(model, retain, config, rng)
