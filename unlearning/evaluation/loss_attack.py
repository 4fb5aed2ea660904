"""Membership inference by a threshold on the loss (Yeom et al., arXiv:1709.01604).

A sample is called a member iff its loss is below tau; forget set against never-seen data.
"""

from __future__ import annotations

import numpy as np

from unlearning.evaluation.metric import Metric
from unlearning.evaluation.noise_floor import Attack, loss_sign, never_seen_halves
from unlearning.evaluation.roc import auc, auc_null_sd, best_balanced_accuracy, best_balanced_accuracy_null
from unlearning.evaluation.scores import Array, Floats, as_values

METRICS = (
    Metric("mia_auc", "MIA", "attack by loss: area under the curve, forget set against never-seen", "oracle", 0, 1,
           reading="above the oracle's: remembered; below: over-forgotten", brief=True),
    Metric("mia_threshold", "MIA threshold", "attack by the best loss threshold, balanced accuracy", "oracle", 0.5, 1,
           reading="above chance: remembered; it cannot detect over-forgetting"),
)  # fmt: skip


def loss_auc_attack(forget: Array, unseen: Array, rng: np.random.Generator, halvings: int = 20) -> Attack:
    """Return the AUC of -loss of the forget set (n,) against never-seen data (m,); `halvings` make the floor."""

    def value(ours: Floats, theirs: Floats) -> float:
        return auc(-ours, -theirs)

    x, y = as_values(forget, "forget losses"), as_values(unseen, "unseen losses")
    return Attack(
        value=value(x, y),
        chance=0.5,
        standard_error=auc_null_sd(len(x), len(y)),
        sign=loss_sign(x, y),
        size=min(len(x), len(y)),
        reading="above 0.5: forget losses are the lower ones, remembered; below 0.5: over-forgotten",
        floor=never_seen_halves(value, y, rng, halvings),
    )


def loss_threshold_attack(forget: Array, unseen: Array, rng: np.random.Generator, halvings: int = 20) -> Attack:
    """Return the balanced accuracy, in [1/2, 1], of the best threshold on the losses (n,) and (m,).

    The threshold is chosen on the same data, as usual for this attack: `chance` lies above 1/2.
    """

    def value(ours: Floats, theirs: Floats) -> float:
        return best_balanced_accuracy(-ours, -theirs)

    x, y = as_values(forget, "forget losses"), as_values(unseen, "unseen losses")
    chance, sd = best_balanced_accuracy_null(len(x), len(y))
    return Attack(
        value=value(x, y),
        chance=chance,
        standard_error=sd,
        sign=loss_sign(x, y),
        size=min(len(x), len(y)),
        reading="above chance: remembered; one-sided, so over-forgetting is not seen: read its sign or the AUC",
        floor=never_seen_halves(value, y, rng, halvings),
    )
