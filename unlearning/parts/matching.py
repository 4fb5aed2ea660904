"""Matching: fine-tune a model until its outputs reach given targets, on the forgotten samples and some kept ones.

D contains each sample of F f times, and R_s, a draw of r |F| kept samples;   min over theta of the mean over D and
classes of (z_c(x; theta) - t_c(x))^2, by Adam. No label is used.
"Attribute-to-Delete" (arXiv:2410.23232).

Differs from the authors' code: batch norm keeps its running statistics, which would drift towards the forgotten samples
that fill D. Every model draws its own R_s. Samples are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.registry import UnlearningConfig, searched
from unlearning.api.view import View
from unlearning.parts.steps import descend

Targets = Callable[[Tensor, Tensor], Tensor]
"""(inputs (B, ...), positions (B,) among the forgotten and then the kept samples) -> targets (B, C)."""


class MatchingConfig(UnlearningConfig):
    """Options of matching."""

    epochs: int = Field(50, ge=0, json_schema_extra=searched(4, 100))
    """Passes over D; the paper's values are 4 to 13 at its size."""
    lr: float = Field(1e-3, gt=0, json_schema_extra=searched(1e-4, 1e-2))
    """Learning rate of Adam; the paper's values are 1e-4 to 5e-4."""
    lr_decay: float = Field(1.0, gt=0, le=1)
    """Factor of the rate after each pass; the authors' value is 0.95, for few passes over many samples."""
    batch_size: int = Field(512, ge=1)
    """Samples per step."""
    forget_times: int = Field(5, ge=1)
    """f, the number of copies of each forgotten sample in D."""
    retain_times: float = Field(10.0, ge=0)
    """r, kept samples in D per forgotten one, if there are enough; the paper's value is 20."""


def matching_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over samples and classes of (z - t)^2, for logits and targets (B, C), shape ()."""
    return (logits - targets).square().mean()


def match(
    model: Classifier, forget: View, retain: View, targets: Targets, config: MatchingConfig, rng: np.random.Generator
) -> Classifier:
    """Fine-tune the model to its targets, in place; return it in evaluation mode.

    If the targets are the model's own outputs, it keeps all its bits: Adam does not move on gradients of exactly zero.
    """
    model.eval()
    count = len(forget)
    drawn = rng.permutation(len(retain))[: round(config.retain_times * count)]
    positions = torch.from_numpy(np.concatenate([np.tile(np.arange(count), config.forget_times), count + drawn]))
    inputs = torch.cat([view.all()[0] for view in (forget, retain)])
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    for epoch in range(config.epochs if count else 0):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * config.lr_decay**epoch
        shuffled = positions[torch.from_numpy(rng.permutation(len(positions)))]
        batches = (rows.to(inputs.device) for rows in torch.split(shuffled, config.batch_size))
        descend((matching_loss(model(inputs[rows]), targets(inputs[rows], rows)) for rows in batches), optimizer)
    return model.eval()
