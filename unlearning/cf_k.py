"""CF-k: catastrophic forgetting of the last k blocks: fine-tune only these and the classifier on the kept samples.

"Towards Adversarial Evaluations for Inexact Machine Unlearning" (arXiv:2201.06640).
Differs from the common code: the frozen blocks also keep the running statistics of batch norm.
"""

import numpy as np

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.blocks import TailConfig, repair_tail


class CfkConfig(TailConfig):
    """Options of CF-k."""


@unlearning("cf_k", CfkConfig, Needs(forget_labels=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: CfkConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with its last blocks fine-tuned."""
    return repair_tail(model, retain, config, rng)
