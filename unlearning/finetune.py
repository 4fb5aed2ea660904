"""Fine-tuning: continue training on the kept samples, and rely on natural forgetting.

min_w E_{(x, y) in D_r} CE(f_w(x), y), by SGD with momentum; the plain baseline for every method.
"""

import numpy as np

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, repair


class FineTuneConfig(RepairConfig):
    """Options of fine-tuning."""


@unlearning(
    "finetune",
    FineTuneConfig,
    needs=Needs(forget_labels=False, one_label=False),
    forgets={"class", "samples", "clients"},
)
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: FineTuneConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model after further training on the retain view."""
    return repair(model, retain, config, rng)
