"""Random labels: teach wrong labels for the samples to forget, and the right ones for the others.

min_θ E_{D_r} ℓ(x, y) + E_{D_f} ℓ(x, ỹ) over the union, ỹ ≠ y uniform and drawn once.
"Amnesiac Machine Learning" (arXiv:2010.10981).
Differs from the authors' code: each step uses a batch of D_r and one of D_f, weighted by the sizes of the two sets, not
a mixed batch of the union; the expected gradient is the same. The optimiser is SGD (theirs: Adam). Batch norm keeps the
original's statistics.
"""

from dataclasses import replace

import numpy as np

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, descend, other_labels, relabelled_losses, required, sgd, spawn_rng


class RandomLabelsConfig(RepairConfig):
    """Options of random labels."""


@unlearning("random_labels", RandomLabelsConfig, Needs(one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: RandomLabelsConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, fine-tuned on right and wrong labels."""
    optimizer, others = sgd(model.parameters(), config), spawn_rng(rng)
    wrong = replace(forget, y=other_labels(required(forget.y), model.classifier.out_features, others))
    for _ in range(config.epochs):
        descend(relabelled_losses(model, wrong, required(retain), config.batch_size, rng, others), optimizer)
    return model.eval()
