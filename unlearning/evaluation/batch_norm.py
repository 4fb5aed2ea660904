"""An attack on forgetting that needs no label and no gradient: batch norm re-estimated on kept samples.

Running means and variances become those of the given inputs; all weights stay. An edit that only shifts the outputs of
layers, such as that of ModHiFi-U, is largely undone by this.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from unlearning.evaluation.metric import Metric, percent

METRICS = (
    Metric(
        "accuracy_forget_bn", "Forget, batch norm anew",
        "accuracy on the forget set after batch norm is re-estimated on kept samples", "oracle", 0, 1,
        reading="far above the accuracy on the forget set: the knowledge is hidden, not forgotten", write=percent,
    ),
    Metric(
        "accuracy_unseen_bn", "Unseen, batch norm anew",
        "accuracy on never-seen samples after batch norm is re-estimated on kept ones", "high", 0, 1, write=percent,
    ),
)  # fmt: skip

Model = TypeVar("Model", bound=nn.Module)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return the batch norms that keep running statistics."""
    found = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [module for module in found if module.running_mean is not None]


@torch.no_grad()
def re_estimated(model: Model, batches: Iterable[Tensor]) -> Model:
    """Return a copy, in evaluation mode, whose running statistics are the mean over the batches (B, *input_shape).

    Batches of a single sample have no variance and are left out.
    """
    model = copy.deepcopy(model).eval()
    for module in batch_norms(model):
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        module.reset_running_stats()
        module.momentum = None  # a plain mean, not a moving one
        module.train()
    for x in batches:
        if len(x) > 1:
            model(x)
    return model.eval()
