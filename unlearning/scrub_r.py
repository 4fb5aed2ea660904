"""SCRUB+R: SCRUB, rewound to the epoch whose error on forgotten samples is nearest to that on never-seen ones.

err(D; s) is the share of D that a student s gets wrong; s_1, ..., s_E are SCRUB's students after each epoch; D_v are
never-seen samples with the class frequencies of D_f:  s_e with e = argmin_e | err(D_f; s_e) - err(D_v; s_E) |.
"Towards Unbounded Machine Unlearning" (arXiv:2302.09880), SCRUB and Rewind.
The paper leaves open two points: of equally near epochs we take the last. D_v is disjoint from the attacks' samples,
and each of its classes has the weight it has in D_f, because test sets seldom have enough samples of every class.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.steps import required
from unlearning.scrub import ScrubConfig, students


class ScrubRConfig(ScrubConfig):
    """Options of SCRUB+R."""


@torch.no_grad()
def class_errors(model: Classifier, view: View, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of wrong and of all samples of a view per class, both (C,)."""
    model.eval()
    wrong, total = torch.zeros(2, num_classes, dtype=torch.float64)
    for x, y in view.batches(500, None):
        labels = required(y)
        total += torch.bincount(labels, minlength=num_classes).to(total)
        wrong += torch.bincount(labels[model(x).argmax(1) != labels], minlength=num_classes).to(wrong)
    return wrong, total


@unlearning("scrub_r", ScrubRConfig, Needs(unseen=True), {"samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: ScrubRConfig, rng: np.random.Generator
) -> Classifier:
    """Return the student of the chosen epoch."""
    num_classes, unseen = model.classifier.out_features, required(forget.unseen)
    kept, errors = [], []
    for student in students(model, forget, required(retain), config, rng):
        wrong, total = class_errors(student, forget, num_classes)
        errors.append(wrong.sum() / total.sum().clamp(min=1))
        kept.append(copy.deepcopy(student.state_dict()))
    if not kept:
        return model.eval()
    wrong_v, total_v = class_errors(model, unseen, num_classes)
    there = (total > 0) & (total_v > 0)
    if not there.any():
        raise FedsimError(
            "--method scrub_r: needs never-seen samples of the forgotten classes, but the test set has none "
            "besides those for the attacks; use scrub"
        )
    reference = (total * wrong_v / total_v)[there].sum() / total[there].sum()
    nearest = min(range(len(kept)), key=lambda epoch: (abs(float(errors[epoch] - reference)), -epoch))
    model.load_state_dict(kept[nearest])
    return model.eval()
