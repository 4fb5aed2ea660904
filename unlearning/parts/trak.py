"""TRAK: attribution by projected gradients of the margin, as if the model were logistic regression on them.

phi(x) = P^T d/dtheta f(x; theta) with the margin f = log p / (1 - p), P random (`fedsim.models.sample_gradients`);
H = sum_i p_i (1 - p_i) phi(x_i) phi(x_i)^T + lambda I over the training samples;
tau(x, i) = phi(x)^T H^-1 phi(x_i) (1 - p_i):  how much higher the margin of x is due to sample i.
tau is the mean over checkpoints, each with features of its own weights. "TRAK: Attributing Model Behavior at Scale"
(arXiv:2303.14186).

Differs from the authors' library: it omits p (1 - p), so its scores have an arbitrary scale. With p (1 - p), H is the
curvature of the loss log(1 + e^-f), tau is a Newton step, and its scale needs no fitting. Networks are not trained to
convergence; lambda represents that. `weighted=False` with lambda = 0 is the library's version, with the same ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.models.functional import FunctionalModel, Tensors
from fedsim.models.sample_gradients import in_parts, projected, sample_gradients

_GRADIENT_FLOATS = 50_000_000  # 200 MB of gradients at once
_SMALL = 1e-6  # relative to the mean of H's diagonal, so that H is always invertible


class Features(NamedTuple):
    """The features of some samples at one checkpoint."""

    phi: Tensor
    """(N, dimension) float64."""
    missing: Tensor
    """1 - p, (N,) float64, p the probability of the label."""


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y - log sum_{j != y} exp z_j for logits (C,) and a label (), shape ()."""
    others = torch.where(torch.arange(len(logits), device=logits.device) == y, -torch.inf, logits)
    return logits.gather(0, y.view(1)).squeeze() - others.logsumexp(0)


def features(model: Classifier, x: Tensor, y: Tensor, dimension: int, seed: int) -> Features:
    """Return the features of samples x (N, *input_shape), y (N,) at a model's weights, in evaluation mode.

    They are projected to `dimension` numbers by the matrix of `seed`; not projected if the model has no more
    parameters.
    """
    functional = FunctionalModel(model.eval())
    params = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.detach() for name, value in model.named_buffers()}

    def f(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return margin(functional.logits(params, buffers, x[None], train=False)[0], y)

    weights = sum(value.numel() for value in params.values())
    gradients, found = sample_gradients(f), []
    for part in in_parts(gradients, params, x, y, max(1, _GRADIENT_FLOATS // weights)):
        if weights <= dimension:
            found.append(torch.cat([part[name].flatten(1) for name in sorted(part)], 1).double())
        else:
            found.append(projected(part, dimension, seed).double())
    with torch.no_grad():
        p = torch.cat([model(some).double().softmax(1) for some in torch.split(x, 500)])
    return Features(torch.cat(found), 1 - p.gather(1, y[:, None]).squeeze(1))


def scores(train: Features, targets: Features, ridge: float = 0.0, *, weighted: bool = True) -> Tensor:
    """Return tau of one checkpoint, (T, N), from features of N training samples and T targets."""
    weights = train.missing * (1 - train.missing) if weighted else torch.ones_like(train.missing)
    curvature = (train.phi * weights[:, None]).T @ train.phi
    curvature.diagonal().add_(ridge + _SMALL * curvature.diagonal().mean())
    solved: Tensor = torch.linalg.solve(curvature, train.phi.T)
    return (targets.phi @ solved) * train.missing


def early_stopping_ridge(samples: int, time: float) -> float:
    """Return the lambda that corresponds to training for a finite time, the sum of all learning rates: n / t.

    Gradient flow for a time t on a mean of quadratic losses approximates a ridge penalty of 1 / t
    ("A Continuous-Time View of Early Stopping for Least Squares", arXiv:1810.10082). H is a sum, hence the factor n.
    """
    return samples / time


def trak(
    models: Sequence[Classifier], train: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], dimension: int,
    seed: int, ridge: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return tau (T, N) on the CPU, the mean over checkpoints; arguments are inputs and labels of both sets."""
    each = [[features(model, *samples, dimension, seed) for samples in (train, targets)] for model in models]
    return torch.stack([scores(ours, theirs, ridge) for ours, theirs in each]).mean(0).cpu()
