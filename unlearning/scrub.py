"""SCRUB: a student moves away from its teacher, the original model, on forgotten samples, and follows it on the others.

Per epoch, with s the student, t the teacher and KL_T = T² KL(softmax(t/T) ‖ softmax(s/T)):
first (only in the first `max_epochs` epochs)  max_s E_{D_f} KL_T(t, s),   then  min_s E_{D_r} γ ℓ + α KL_T(t, s).
"Towards Unbounded Machine Unlearning" (arXiv:2302.09880).
Differs from the authors' code: SGD at 0.01 (their setting for small sets is Adam at 5e-4). The divergence of a
forgotten sample is capped, because it grows without bound, and forgotten samples do not change batch norm's running
statistics. SCRUB+R is `scrub_r`.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.models.objective import mean_loss
from unlearning.api.needs import Needs
from unlearning.api.registry import searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import (
    RepairConfig,
    capped,
    descend,
    distillation,
    kept_logits,
    opposed_logits,
    required,
    sgd,
    spawn_rng,
)


class ScrubConfig(RepairConfig):
    """Options of SCRUB."""

    lr: float = Field(0.03, gt=0, json_schema_extra=searched(1e-3, 0.05))
    """Learning rate of SGD. A student that starts as its teacher has no gradient away from it, and too low a rate never
    finds one."""
    gamma: float = Field(1.0, ge=0)
    """γ, the weight of the cross-entropy on the kept samples."""
    alpha: float = Field(0.5, ge=0)
    """α, the weight of the distillation on the kept samples."""
    temperature: float = Field(2.0, gt=0)
    """T, the temperature of the distillation."""
    max_epochs: int = Field(5, ge=0, json_schema_extra=searched(1, 5))
    """Epochs that begin with a pass over the samples to forget; 0, with γ = 1 and α = 0, is exactly fine-tuning."""
    ceiling: float = Field(2.0, gt=0)
    """Divergence, in units of log(number of classes), above which a forgotten sample has no effect."""


def teacher_logits(teacher: Classifier, x: Tensor) -> Tensor:
    """Return the teacher's logits of inputs (B, *input_shape), without a graph."""
    with torch.no_grad():
        logits: Tensor = teacher(x)
    return logits


def students(
    model: Classifier, forget: View, retain: View, config: ScrubConfig, rng: np.random.Generator
) -> Iterator[Classifier]:
    """Train `model`, which starts as its own teacher, and yield it after every epoch."""
    teacher, optimizer, others = copy.deepcopy(model).eval(), sgd(model.parameters(), config), spawn_rng(rng)
    outputs = model.classifier.out_features

    def divergence(logits: Tensor, x: Tensor) -> Tensor:
        return distillation(logits, teacher_logits(teacher, x), config.temperature, forget.several_labels)

    def leaving() -> Iterator[Tensor]:
        for x, _ in forget.batches(config.batch_size, others):
            far = divergence(opposed_logits(model, x), x)
            yield -capped(far, config.ceiling, 2**outputs if forget.several_labels else outputs)

    def following() -> Iterator[Tensor]:
        for x, y in retain.batches(config.batch_size, rng):
            logits = kept_logits(model, x)
            yield config.gamma * mean_loss(logits, required(y)) + config.alpha * divergence(logits, x).mean()

    for epoch in range(config.epochs):
        if epoch < config.max_epochs:
            descend(leaving(), optimizer)
        descend(following(), optimizer)
        yield model


@unlearning("scrub", ScrubConfig, Needs(forget_labels=False, one_label=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: ScrubConfig, rng: np.random.Generator
) -> Classifier:
    """Return the student after the last epoch."""
    for _ in students(model, forget, required(retain), config, rng):
        pass
    return model.eval()
