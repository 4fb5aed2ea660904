"""Bad teacher: a student follows an untrained net on the samples to forget and the original model on the others.

min_s E_{D_f} KL(u ‖ s) + E_{D_r'} KL(o ‖ s),   u the untrained net, o the original, D_r' a random share of D_r.
"Can Bad Teaching Induce Forgetting?" (arXiv:2205.08096).
Differs from the authors' code: the divergence is summed, not averaged, over classes; each step sees a batch of either
kind, weighted by the sizes of the two sets; a learning rate and a number of epochs for small models.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.api.view import View
from unlearning.parts.blocks import reset
from unlearning.parts.steps import (
    descend,
    distillation,
    endless,
    forgotten_logits,
    kept_logits,
    required,
    sample,
    spawn_rng,
)


class BadTeacherConfig(UnlearningConfig):
    """Options of the bad teacher.

    The samples of an ordinary client resemble those of other clients. The student cannot follow the untrained net on
    the former and the original on the latter, so kept samples lose some points (3 on digits).
    """

    defaults_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        kind: {"retain_share": 1.0, "lr": 3e-4} for kind in ("samples", "clients")
    }

    epochs: int = Field(10, ge=0, json_schema_extra=searched(1, 20))
    """Passes over the sampled kept samples; the authors' value is 1."""
    batch_size: int = Field(64, ge=1)
    """Samples of each kind per step."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(1e-4, 5e-3))
    """Learning rate of Adam; the authors' value is 1e-4."""
    retain_share: float = Field(0.3, gt=0, le=1)
    """Share of the kept samples that is used."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the distillation."""


@unlearning(
    "bad_teacher",
    BadTeacherConfig,
    Needs(forget_labels=False, retain_labels=False),
    {"class", "samples", "clients"},
)
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: BadTeacherConfig, rng: np.random.Generator
) -> Classifier:
    """Return the student."""
    others = spawn_rng(rng)
    good, bad = (copy.deepcopy(model).eval().requires_grad_(False) for _ in range(2))
    reset([bad], others)
    kept = sample(required(retain), config.retain_share, others)
    share = len(forget) / (len(forget) + len(kept))
    forgotten = endless(forget, config.batch_size, others)

    def losses() -> Iterator[Tensor]:
        for (x, _), (x_f, _) in zip(kept.batches(config.batch_size, rng), forgotten, strict=False):
            keep = distillation(kept_logits(model, x), good(x), config.temperature).mean()
            lose = distillation(forgotten_logits(model, x_f), bad(x_f), config.temperature).mean()
            yield (1 - share) * keep + share * lose

    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    for _ in range(config.epochs):
        descend(losses(), optimizer)
    return model.eval()
