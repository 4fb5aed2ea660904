"""Fine-tuning: go on training on what is kept, and let forgetting happen by itself.

min_w E_{(x, y) in D_r} CE(f_w(x), y), by SGD with momentum; the plain baseline that every method has to beat.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from fedsim.models.base import Classifier
from fedsim.unlearn.seam import Needs, UnlearningConfig, View, unlearning


class FineTuneConfig(UnlearningConfig):
    """Options of fine-tuning."""

    epochs: int = Field(5, ge=0)
    """Passes over the kept samples; 0 leaves the model as it is."""
    batch_size: int = Field(64, ge=1)
    """Samples per step."""
    lr: float = Field(0.01, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty, added to the gradient."""


@unlearning("finetune", FineTuneConfig, needs=Needs(forget_labels=False), forgets={"class", "samples", "clients"})
def finetune(
    model: Classifier, forget: View, retain: View | None, config: FineTuneConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model trained further on the retain view."""
    assert retain is not None
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    model.train()
    for _ in range(config.epochs):
        for x, y in retain.batches(config.batch_size, rng):
            assert y is not None
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch's own stub
            optimizer.step()
    return model
