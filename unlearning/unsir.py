"""UNSIR: learn noise that the model finds most unlike a class, train on it as that class, then repair. Classes only.

Noise N for class c:  min_N −ℓ(N, c) + λ mean ‖N‖²;   impair: min_θ ℓ on noise ∪ D_r';   repair: min_θ ℓ on D_r';
D_r' is a random share of D_r.
"Fast Yet Effective Machine Unlearning" (arXiv:2111.08947).
Differs from the authors' code: each impairing step uses the average over a batch of noise and a batch of D_r'; noise
passes in evaluation mode.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import (
    descend,
    forgotten_logits,
    kept_logits,
    kept_losses,
    noise,
    required,
    sample,
    spawn_rng,
)


class UnsirConfig(UnlearningConfig):
    """Options of UNSIR."""

    noise_lr: float = Field(0.1, ge=0)
    """Learning rate of Adam for the noise."""
    noise_steps: int = Field(40, ge=0)
    """Steps for the noise."""
    noise_penalty: float = Field(0.1, ge=0)
    """λ, the weight of the noise's squared norm."""
    batch_size: int = Field(64, ge=1)
    """Noise samples per class, and kept samples per step."""
    retain_share: float = Field(1.0, gt=0, le=1)
    """Share of the kept samples that is used."""
    impair_epochs: int = Field(1, ge=0)
    """Passes over the used kept samples with the noise."""
    impair_lr: float = Field(0.01, ge=0, json_schema_extra=searched(1e-3, 0.05))
    """Learning rate of Adam while impairing."""
    repair_epochs: int = Field(6, ge=0, json_schema_extra=searched(1, 6))
    """Passes without the noise; the authors' 1 is too few if the used share is small."""
    repair_lr: float = Field(0.01, ge=0)
    """Learning rate of Adam while repairing."""


def adverse_noise(model: Classifier, start: Tensor, y: Tensor, config: UnsirConfig) -> Tensor:
    """Return normalised inputs (B, *input_shape), from `start`, of high loss for the labels (B,) and small norm."""
    inputs = start.clone().requires_grad_()

    def losses() -> Iterator[Tensor]:
        for _ in range(config.noise_steps):
            norm = inputs.square().flatten(1).sum(1).mean()
            yield -F.cross_entropy(forgotten_logits(model, inputs), y) + config.noise_penalty * norm

    descend(losses(), torch.optim.Adam([inputs], config.noise_lr))
    return inputs.detach()


@unlearning("unsir", UnsirConfig, Needs(), {"class"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: UnsirConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, impaired and repaired.

    Raises
    ------
    FedsimError
        If the inputs are characters of a text.
    """
    others = spawn_rng(rng)
    kept = sample(required(retain), config.retain_share, others)
    y = torch.unique(required(forget.y)).repeat_interleave(config.batch_size)
    example = next(kept.batches(1, None))[0]
    if not example.is_floating_point():
        raise FedsimError("--method unsir: needs gradients of its inputs, and characters have none; use neggrad")
    start = noise(others, example.expand(len(y), *example.shape[1:]))
    noisy = adverse_noise(model, start, y, config) if config.impair_epochs else start

    def impairing() -> Iterator[Tensor]:
        for x_kept, y_kept in kept.batches(config.batch_size, rng):
            keep = F.cross_entropy(kept_logits(model, x_kept), required(y_kept))
            yield (keep + F.cross_entropy(forgotten_logits(model, noisy), y)) / 2

    optimizer = torch.optim.Adam(model.parameters(), config.impair_lr)
    for _ in range(config.impair_epochs):
        descend(impairing(), optimizer)
    optimizer = torch.optim.Adam(model.parameters(), config.repair_lr)
    for _ in range(config.repair_epochs):
        descend(kept_losses(model, kept, config.batch_size, rng), optimizer)
    return model.eval()
