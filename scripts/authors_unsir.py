"""UNSIR as in the code of MUFAC's authors: impair with noise in place of the forgotten samples, then repair.

For each pair of batches (B_r, B_f) of equal size: noise N ~ N(0, I), 5 steps of Adam on  max_N mean (f(N) - f(B_f))^2,
clamped to [0, 1]; then a step of SGD on  l(N, y_r) + l(B_r, y_r).  Both use the labels of the kept samples. One epoch
of SGD on the kept samples repairs the model. From the authors' notebook (arXiv:2311.02240). A comment there says the
opposite of the code: the code moves the noise away from the forgotten batch. The code uses no class, so it is a
different method from UNSIR (arXiv:2111.08947). Batch norm stays in evaluation mode, as in the authors' code.
"""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from fedsim.models.base import Classifier
from fedsim.models.objective import mean_loss
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, descend, noise, required, sgd, spawn_rng


class AuthorsUnsirConfig(RepairConfig):
    """Options; the defaults are the authors'."""

    epochs: int = Field(2, ge=0)
    """Passes over pairs of batches."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of SGD."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty of SGD."""
    noise_steps: int = Field(5, ge=0)
    """Number of steps on the noise of a batch."""
    noise_lr: float = Field(0.01, gt=0)
    """Learning rate of Adam on the noise."""
    repair_epochs: int = Field(1, ge=0)
    """Number of passes over the kept samples; 0 is the authors' stage 1."""


@unlearning("authors_unsir", AuthorsUnsirConfig, Needs(forget_labels=False, one_label=False), {"samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: AuthorsUnsirConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, impaired and repaired."""
    kept, others, optimizer = required(retain), spawn_rng(rng), sgd(model.parameters(), config)
    model.eval()
    for _ in range(config.epochs):
        pairs = zip(kept.batches(config.batch_size, rng), forget.batches(config.batch_size, others), strict=False)
        for (x, y), (x_forget, _) in pairs:
            if len(x) == len(x_forget) == config.batch_size:
                drawn = _noise(model, x_forget, config, others)
                losses = (mean_loss(model(z), required(y)) for z in (drawn, x))
                descend([sum(losses, torch.zeros(()))], optimizer)
    for _ in range(config.repair_epochs):
        descend((mean_loss(model(x), required(y)) for x, y in kept.batches(config.batch_size, rng)), optimizer)
    return model


def _noise(model: Classifier, x: torch.Tensor, config: AuthorsUnsirConfig, rng: np.random.Generator) -> torch.Tensor:
    drawn = noise(rng, x).requires_grad_()
    with torch.no_grad():
        logits = model(x)
    descend((-F.mse_loss(model(drawn), logits) for _ in range(config.noise_steps)),
            torch.optim.Adam([drawn], config.noise_lr))  # fmt: skip
    return drawn.detach().clamp(0, 1)
