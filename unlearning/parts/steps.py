"""What unlearning methods are made of: passes over a view, losses of its batches, steps of an optimiser.

Kept samples pass through the model in training mode. Samples to forget pass in evaluation mode, or as kept ones do
where a loss sets the two against each other, see `opposed_logits`: no running statistic of batch norm ever takes them
in. Kept samples are shuffled by the method's generator itself, everything else is drawn from `spawn_rng(rng)`, so a
method with its forgetting switched off takes the very steps of fine-tuning.
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
    """SGD on the samples that are kept."""

    epochs: int = Field(5, ge=0, json_schema_extra=searched(1, 20))
    """Passes over the kept samples."""
    batch_size: int = Field(64, ge=1)
    """Samples per step."""
    lr: float = Field(0.01, gt=0, json_schema_extra=searched(1e-3, 0.1))
    """Learning rate of SGD; about that of the last rounds of the original training."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty of SGD."""


def required(value: T | None) -> T:
    """Return what a method's declared needs promise is there."""
    assert value is not None
    return value


def spawn_rng(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator of its own for what fine-tuning does not draw; the stream of `rng` does not move."""
    return rng.spawn(1)[0]


def noise(rng: np.random.Generator, like: Tensor) -> Tensor:
    """Return standard normal noise, the same on every device, in the shape and type of `like`."""
    return torch.from_numpy(rng.standard_normal(tuple(like.shape))).to(like)


def sgd(parameters: Iterable[nn.Parameter], config: RepairConfig) -> torch.optim.SGD:
    """Return the optimiser that the options describe."""
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def descend(losses: Iterable[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Take one step per loss; `losses` is lazy, so each is that of the weights the step before left."""
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own stub
        optimizer.step()


def endless(view: View, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield shuffled batches over and over; nothing if the view is empty."""
    while len(view):
        yield from view.batches(batch_size, rng)


def kept_logits(model: Classifier, x: Tensor, frozen: Sequence[nn.Module] = ()) -> Tensor:
    """Return logits of kept samples in training mode; `frozen` modules, and for one sample all, in evaluation mode.

    Batch norm has no variance over one sample.
    """
    model.train(len(x) > 1)
    for module in frozen:
        module.eval()
    logits: Tensor = model(x)
    return logits


def forgotten_logits(model: Classifier, x: Tensor) -> Tensor:
    """Return logits of samples to forget, in evaluation mode; after, not before, `kept_logits` in one step."""
    model.eval()
    logits: Tensor = model(x)
    return logits


def opposed_logits(model: Classifier, x: Tensor) -> Tensor:
    """Return logits of samples to forget as `kept_logits` of these would be, but no running statistic takes them in.

    Batch norm then normalises both by the statistics of their own batch, as in the authors' code of SCRUB. Were these
    normalised by the running ones, the model would learn to tell the two by that: it would not forget, or err on
    what it is asked afterwards.
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
    """Return mean_i min(loss_i, ceiling log C), shape (), of losses (B,): past the ceiling a sample has no gradient."""
    return losses.clamp(max=ceiling * math.log(num_classes)).mean()


def capped_cross_entropy(logits: Tensor, y: Tensor, ceiling: float) -> Tensor:
    """Return the capped mean loss of logits (B, C) and classes (B,), or (B, L) and labels (B, L), shape ()."""
    return capped(sample_losses(logits, y), ceiling, 2 if has_several_labels(y) else logits.shape[1])


def distillation(student: Tensor, teacher: Tensor, temperature: float, several_labels: bool = False) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of each row of logits (B, C), shape (B,).

    Of (B, L) logits of labels it is the sum of the L divergences between Bernoulli distributions.
    """
    if several_labels:
        ours, theirs = (torch.stack([torch.zeros_like(z), z], 2).flatten(0, 1) for z in (student, teacher))
        return distillation(ours, theirs, temperature).view(student.shape).sum(1)
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def other_labels(y: Tensor, num_classes: int, rng: np.random.Generator) -> Tensor:
    """Return for each label (N,) one of the other classes, all equally likely; of several labels the opposite."""
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

    `forget` has the labels that are to be taught; its batches are shuffled by `others`. Both are in evaluation mode:
    batch norm keeps the original's statistics. Were kept batches normalised by their own, the model would learn to tell
    the two sides apart by that, and give wrong labels to all that it is asked afterwards.
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

    In evaluation mode; the model stays as it is.
    """
    model.eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    for x, y in view.batches(batch_size, rng):
        gradients = torch.autograd.grad(mean_loss(model(x), required(y)), parameters)
        yield len(x), dict(zip(names, gradients, strict=True))


def mean_gradient(model: Classifier, view: View, batch_size: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the gradient, by parameter, of the mean cross-entropy over a view; 0 of an empty one."""
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for size, gradients in batch_gradients(model, view, batch_size, rng):
        for name, gradient in gradients.items():
            total[name] += gradient * (size / len(view))
    return total


def union(first: View, second: View) -> View:
    """Return the samples of both views, with labels."""
    return replace(first, x=torch.cat([first.x, second.x]), y=torch.cat([required(first.y), required(second.y)]))


def sample(view: View, share: float, rng: np.random.Generator) -> View:
    """Return a random `share`, in (0, 1], of a view, in its order and at least one sample."""
    count = min(len(view), max(1, round(share * len(view))))
    rows = torch.from_numpy(np.sort(rng.choice(len(view), count, replace=False))).to(view.x.device)
    return replace(view, x=view.x[rows], y=None if view.y is None else view.y[rows])


def extreme(values: dict[str, Tensor], share: float, *, largest: bool) -> dict[str, Tensor]:
    """Return masks of the `share` of all entries together that are largest, or smallest; earlier ones among equals."""
    flat = torch.cat([value.flatten() for value in values.values()])
    order = flat.argsort(descending=largest, stable=True)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[: round(share * len(flat))]] = True
    parts = torch.split(mask, [value.numel() for value in values.values()])
    return {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}
