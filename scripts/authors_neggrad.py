"""NegGrad as in the code of MUFAC's authors: plain SGD that increases the loss of the forgotten samples, without a cap.

SGD on  max_θ mean_i l(x_i, y_i)  over batches of the forgotten samples, which are used repeatedly. The number of steps
is the number of batches of kept samples times the number of epochs. From the authors' notebook (arXiv:2311.02240).
`unlearning/neggrad.py` has another length of its steps, and a cap.
"""

import math
from itertools import islice

import numpy as np

from fedsim.models.base import Classifier
from fedsim.models.objective import mean_loss
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, descend, endless, forgotten_logits, required, sgd


class AuthorsNegGradConfig(RepairConfig):
    """Options; the defaults are the authors'."""

    epochs: int = 2
    """Number of passes over the kept samples."""
    lr: float = 1e-3
    """Learning rate of SGD."""
    momentum: float = 0.0
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """L2 penalty of SGD."""


@unlearning("authors_neggrad", AuthorsNegGradConfig, Needs(one_label=False), {"samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: AuthorsNegGradConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model after ascent on the forgotten samples' loss."""
    steps = config.epochs * math.ceil(len(required(retain)) / config.batch_size)
    batches = islice(endless(forget, config.batch_size, rng), steps)
    losses = (-mean_loss(forgotten_logits(model, x), required(y)) for x, y in batches)
    descend(losses, sgd(model.parameters(), config))
    return model.eval()
