"""Building blocks of unlearning methods: passes over a view, losses of its batches, steps of an optimiser.

Kept samples pass through the model in training mode. Samples to forget pass in evaluation mode, or, if a loss contrasts
both, as kept ones do (see `opposed_logits`); they never change the running statistics of batch norm. The method's
generator itself shuffles kept samples, and everything else is drawn from `spawn_rng(rng)`. So a method with its
forgetting switched off takes exactly the steps of fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.models.base import Classifier
from fedsim.models.objective import has_several_labels, mean_loss, sample_losses
from unlearning.api.registry import UnlearningConfig, searched
from unlearning.api.view import View
from unlearning.evaluation.batch_norm import batch_norms

T = TypeVar("T")
Batch = tuple[Tensor, Tensor | None]


class RepairConfig(UnlearningConfig):
    """SGD on the kept samples."""

    epochs: int = Field(5, ge=0, json_schema_extra=searched(1, 20))
    """Passes over the kept samples."""
    batch_size: int = Field(64, ge=1)
    """Samples per step."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD; about that of the last rounds of the original training."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty of SGD."""


def required(value: T | None) -> T:
    """Return a value that the method's declared needs guarantee."""
    assert value is not None
    return value


def spawn_rng(rng: np.random.Generator) -> np.random.Generator:
    """Return a separate generator for draws that fine-tuning does not make; the stream of `rng` does not advance."""
    return rng.spawn(1)[0]


def noise(rng: np.random.Generator, like: Tensor) -> Tensor:
    """Return standard normal noise in the shape and dtype of `like`, the same on every device."""
    return torch.from_numpy(rng.standard_normal(tuple(like.shape))).to(like)


def sgd(parameters: Iterable[nn.Parameter], config: RepairConfig) -> torch.optim.SGD:
    """Return the optimiser for these options."""
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def descend(losses: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Take one step per loss; `losses` is lazy, so each loss is computed with the weights after the previous step."""
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own stub
        optimizer.step()


def endless(view: View, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield shuffled batches without end; nothing if the view is empty."""
    while len(view):
        yield from view.batches(batch_size, rng)


def kept_logits(model: Classifier, x: Tensor, frozen: Sequence[nn.Module] = ()) -> Tensor:
    """Return logits of kept samples in training mode; `frozen` modules, or all for one sample, in evaluation mode.

    Batch norm has no variance over one sample.
    """
    model.train(len(x) > 1)
    for module in frozen:
        module.eval()
    logits: Tensor = model(x)
    return logits


def forgotten_logits(model: Classifier, x: Tensor) -> Tensor:
    """Return logits of samples to forget, in evaluation mode; call it after `kept_logits` in a step, not before."""
    model.eval()
    logits: Tensor = model(x)
    return logits


def opposed_logits(model: Classifier, x: Tensor) -> Tensor:
    """Return logits of samples to forget, computed as `kept_logits`, but without a change of the running statistics.

    Batch norm then normalises both kinds by the statistics of their own batch, as in the authors' code of SCRUB. If
    forgotten samples were normalised by the running statistics, the model would learn to distinguish the two kinds by
    that. Then it would not forget, or would make errors on later inputs.
    """
    model.train(len(x) > 1)
    norms: list[Any] = batch_norms(model)
    for norm in norms:
        norm.track_running_stats = False
    logits: Tensor = model(x)
    for norm in norms:
        norm.track_running_stats = True
    return logits


def kept_losses(
    model: Classifier, retain: View, batch_size: int, rng: np.random.Generator, frozen: Sequence[nn.Module] = ()
) -> Iterator[Tensor]:
    """Yield the loss of each batch in one pass over the kept samples."""
    for x, y in retain.batches(batch_size, rng):
        yield mean_loss(kept_logits(model, x, frozen), required(y))


def repair(model: Classifier, retain: View | None, config: RepairConfig, rng: np.random.Generator) -> Classifier:
    """Fine-tune all of the model on the kept samples, in place; return it in evaluation mode."""
    optimizer = sgd(model.parameters(), config)
    for _ in range(config.epochs):
        descend(kept_losses(model, required(retain), config.batch_size, rng), optimizer)
    return model.eval()


def capped(losses: Tensor, ceiling: float, num_classes: int) -> Tensor:
    """Return mean_i min(loss_i, ceiling log C), shape (), of losses (B,).

    Above the ceiling a sample has no gradient.
    """
    return losses.clamp(max=ceiling * math.log(num_classes)).mean()


def capped_cross_entropy(logits: Tensor, y: Tensor, ceiling: float) -> Tensor:
    """Return the capped mean loss of logits (B, C) and classes (B,), or of (B, L) and labels (B, L), shape ()."""
    return capped(sample_losses(logits, y), ceiling, 2 if has_several_labels(y) else logits.shape[1])


def distillation(student: Tensor, teacher: Tensor, temperature: float, several_labels: bool = False) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of each row of logits (B, C), shape (B,).

    For logits (B, L) of labels it is the sum of the L divergences between Bernoulli distributions.
    """
    if several_labels:
        ours, theirs = (torch.stack([torch.zeros_like(z), z], 2).flatten(0, 1) for z in (student, teacher))
        return distillation(ours, theirs, temperature).view(student.shape).sum(1)
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def other_labels(y: Tensor, num_classes: int, rng: np.random.Generator) -> Tensor:
    """Return for each class (N,) one of the other classes, all equally likely.

    For several labels, the opposite ones.
    """
    if has_several_labels(y):
        return 1 - y
    shift = torch.from_numpy(rng.integers(1, max(num_classes, 2), len(y)))
    return (y + shift.to(y)) % num_classes


def relabelled_losses(
    model: Classifier,
    forget: View,
    retain: View,
    batch_size: int,
    rng: np.random.Generator,
    others: np.random.Generator,
) -> Iterator[Tensor]:
    """Yield, in one pass over the kept samples, (n_r CE(B_r) + n_f CE(B_f)) / (n_r + n_f): the loss of their union.

    `forget` has the labels to teach; `others` shuffles its batches. Both passes are in evaluation mode, so batch norm
    keeps the original's statistics. If kept batches were normalised by their own statistics, the model would learn to
    distinguish the two kinds by that, and give wrong labels to all later inputs.
    """
    share = len(forget) / (len(forget) + len(retain))
    pairs = zip(retain.batches(batch_size, rng), endless(forget, batch_size, others), strict=False)
    model.eval()
    for (x, y), (x_f, y_f) in pairs:
        yield (1 - share) * mean_loss(model(x), required(y)) + share * mean_loss(model(x_f), required(y_f))


def batch_gradients(
    model: Classifier, view: View, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the size of each shuffled batch and the gradient, by parameter, of its mean cross-entropy.

    The model is in evaluation mode and does not change.
    """
    model.eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    for x, y in view.batches(batch_size, rng):
        gradients = torch.autograd.grad(mean_loss(model(x), required(y)), parameters)
        yield len(x), dict(zip(names, gradients, strict=True))


def mean_gradient(model: Classifier, view: View, batch_size: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the gradient, by parameter, of the mean cross-entropy over a view; 0 for an empty view."""
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for size, gradients in batch_gradients(model, view, batch_size, rng):
        for name, gradient in gradients.items():
            total[name] += gradient * (size / len(view))
    return total


def union(first: View, second: View) -> View:
    """Return the samples of both views, with labels."""
    return replace(first, x=torch.cat([first.x, second.x]), y=torch.cat([required(first.y), required(second.y)]))


def sample(view: View, share: float, rng: np.random.Generator) -> View:
    """Return a random `share`, in (0, 1], of a view, in its order, with at least one sample."""
    count = min(len(view), max(1, round(share * len(view))))
    rows = torch.from_numpy(np.sort(rng.choice(len(view), count, replace=False))).to(view.x.device)
    return replace(view, x=view.x[rows], y=None if view.y is None else view.y[rows])


def extreme(values: dict[str, Tensor], share: float, *, largest: bool) -> dict[str, Tensor]:
    """Return masks of the largest, or smallest, `share` of all entries together; of equal ones the earlier."""
    flat = torch.cat([value.flatten() for value in values.values()])
    order = flat.argsort(descending=largest, stable=True)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[: round(share * len(flat))]] = True
    parts = torch.split(mask, [value.numel() for value in values.values()])
    return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}
