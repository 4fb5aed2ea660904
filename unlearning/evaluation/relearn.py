"""Relearn time: the number of fine-tuning steps until the forgotten samples are learned again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedsim.models.objective import mean_loss
from unlearning.evaluation.metric import Metric

METRICS = (
    Metric("relearn_steps", "Relearn", "steps to relearn the forget set", "oracle", 0, None, "steps",
           "fewer than the oracle's: residual memory; a model that never relearns counts with the largest number of "
           "steps", write="{:.0f}".format),
    Metric("relearn_earlier", "Relearn earlier", "steps to relearn the samples of earlier requests", "oracle", 0, None,
           "steps", "read it like relearn_steps", write="{:.0f}".format),
    Metric("relearn_unseen", "Learn unseen", "steps to learn the same number of never-seen samples", "oracle", 0, None,
           "steps", write="{:.0f}".format),
    Metric("relearn_ratio", "Relearn ratio", "steps to relearn, divided by the oracle's", "oracle", 0, None, "ratio",
           write="{:.2f}".format),
)  # fmt: skip

_BATCH = 500
_EXACT = 10


@dataclass(frozen=True)
class Relearn:
    """Fine-tuning of one model until a threshold."""

    steps: int
    """Steps until the threshold was reached; all steps if it was not reached."""
    reached: bool
    start: float
    """Value of the criterion on the forget set before the first step, and `end` after the last."""
    end: float
    criterion: Literal["loss", "accuracy"]
    threshold: float


def relearn(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    forget: tuple[Tensor, Tensor],
    *,
    threshold: float = 0.1,
    criterion: Literal["loss", "accuracy"] = "loss",
    lr: float = 0.01,
    momentum: float = 0.0,
) -> Relearn:
    """Fine-tune a copy of `model` until the forget set's loss is at most, or its accuracy at least, `threshold`.

    SGD on the mean cross-entropy, one step per batch; SCRUB's values are lr 0.01, loss 0.1 and at most 100 epochs.
    The copy stays in evaluation mode (running statistics of BatchNorm, no dropout), so the count is a function of
    weights and batches. All parameters are trained, also ones that were frozen. The criterion costs more than a step:
    it is computed after each of the first ten steps, then each time that the steps have grown by a tenth, and after
    the last. A larger count is thus at most a tenth above the exact one.

    Parameters
    ----------
    model
        maps inputs (B, ...) to logits (B, C); not changed
    batches
        inputs (B, ...) and labels (B,), on the model's device; their number is the largest count
    forget
        inputs (n, ...) and labels (n,) of all forgotten samples
    """
    student = copy.deepcopy(model).eval().requires_grad_(True)
    params = list(student.parameters())
    velocities = [torch.zeros_like(p) for p in params]

    def value() -> float:
        return _criterion(student, *forget, criterion)

    def reached(now: float) -> bool:
        return now <= threshold if criterion == "loss" else now >= threshold

    start = end = value()
    steps = checked = 0
    if not reached(end):
        for x, y in batches:
            grads = torch.autograd.grad(mean_loss(student(x), y), params, materialize_grads=True)
            with torch.no_grad():
                for p, velocity, grad in zip(params, velocities, grads, strict=True):
                    p.sub_(velocity.mul_(momentum).add_(grad), alpha=lr)
            steps += 1
            if steps <= _EXACT or 10 * steps >= 11 * checked:
                end, checked = value(), steps
                if reached(end):
                    break
        if checked != steps:
            end = value()
    return Relearn(steps, reached(end), start, end, criterion, threshold)


def relearn_ratio(unlearned: Relearn, oracle: Relearn) -> float | None:
    """Return steps of the unlearned model / steps of the oracle (AIN); None if the oracle needs no steps.

    Below 1: residual memory; far above 1: damage. A model that never relearned counts with all its steps, so its ratio
    is a lower bound.
    """
    return unlearned.steps / oracle.steps if oracle.steps else None


@torch.no_grad()
def _criterion(model: nn.Module, x: Tensor, y: Tensor, criterion: Literal["loss", "accuracy"]) -> float:
    logits = torch.cat([model(part) for part in torch.split(x, _BATCH)]).double()
    if criterion == "loss":
        return float(mean_loss(logits, y))
    return float((logits.argmax(1) == y).double().mean())
