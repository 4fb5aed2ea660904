"""LAF+R: LAF; afterwards only the classifier is repaired with labels of kept samples.

min_c E_{D_r} ℓ(c ∘ e_U) by Adam; an epoch has as many steps as one of LAF.
"Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models" (arXiv:2404.00506).
For classes, the repair alone (lr_unlearn = lr_align = 0) already hides the class: compare with that.
Differs from the authors' code: one epoch at 1e-3, as theirs are not published; the classifier is one linear layer here.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.laf import LafConfig, forget_features
from unlearning.parts.steps import descend, required


class LafRepairConfig(LafConfig):
    """Options of LAF+R."""

    repair_epochs: int = Field(1, ge=0)
    """Epochs of the repair."""
    repair_lr: float = Field(1e-3, ge=0)
    """Learning rate of Adam for the repair."""


def repair_classifier(
    model: Classifier, retain: View, num_steps: int, config: LafRepairConfig, rng: np.random.Generator
) -> None:
    """Fit the classifier to the labels of kept samples, in place, in epochs of at most `num_steps` steps."""
    optimizer = torch.optim.Adam(model.classifier.parameters(), config.repair_lr)
    for _ in range(config.repair_epochs):
        batches = zip(range(num_steps), retain.batches(config.batch_size, rng), strict=False)
        with torch.no_grad():
            fixed = [(model.features(x), required(y)) for _, (x, y) in batches]
        descend((F.cross_entropy(model.classifier(e), y) for e, y in fixed), optimizer)


@unlearning("laf_r", LafRepairConfig, Needs(forget_labels=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: LafRepairConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with its features moved and its classifier repaired."""
    forget_features(model, forget, required(retain), config, rng)
    repair_classifier(model, required(retain), math.ceil(len(forget) / config.batch_size), config, rng)
    return model
