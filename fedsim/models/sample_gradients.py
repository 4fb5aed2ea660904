"""Gradients of single samples, and random projections of them that need little memory.

DP-SGD clips these gradients. The diagonal of the Fisher information is the mean of their squares. Attribution compares
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from fedsim.models.functional import Tensors
from fedsim.randomness import torch_seed

_BLOCK_FLOATS = 4_000_000  # numbers of the projection matrix in memory at once: 16 MB


def sample_gradients(function: Callable[..., Any], *, shared: int = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function that computes the gradient of each sample.

    Parameters
    ----------
    function
        (params, *others, x, y) -> shape () for one sample x (*input_shape), y (); with `has_aux` it returns a pair of
        that and of tensors
    shared
        the number of arguments between params and x, which are the same for all samples

    Returns
    -------
    (params, *others, x, y) -> {name: (B, ...)} for samples x (B, *input_shape), y (B,); with `has_aux` a pair of that
    and of the tensors (B, ...). It can itself be mapped over clients.
    """
    each = (None,) * (1 + shared) + (0, 0)
    mapped: Callable[..., Any] = vmap(grad(function, has_aux=has_aux), in_dims=each, randomness="different")
    return mapped


def in_parts(
    gradients: Callable[..., dict[str, Tensor]], params: Tensors, x: Tensor, y: Tensor, together: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of samples x (N, *input_shape), y (N,), at most `together` samples at a time."""
    for some, labels in zip(torch.split(x, together), torch.split(y, together), strict=True):
        yield gradients(params, some, labels)


def projected(gradients: Tensors, dimension: int, seed: int) -> Tensor:
    """Return P^T g for each sample's gradient g, (B, dimension); P has independent entries +-1 / sqrt(dimension).

    By the lemma of Johnson and Lindenstrauss, the projection keeps inner products in expectation. P is drawn block by
    block, each block from its own seed, and is never held as a whole. Equal seeds give the same P; tensors are taken in
    the order of their names.

    Parameters
    ----------
    gradients
        (B, ...) by name
    dimension
        of the projections
    seed
        of P
    """
    first = next(iter(gradients.values()))
    out = torch.zeros(len(first), dimension, dtype=first.dtype, device=first.device)
    rows = max(1, _BLOCK_FLOATS // dimension)
    for number, name in enumerate(sorted(gradients)):
        flat = gradients[name].reshape(len(first), -1)
        for block, part in enumerate(torch.split(flat, rows, dim=1)):
            draws = torch.Generator().manual_seed(torch_seed(seed, "projection", number, block))
            signs = torch.randint(0, 2, (part.shape[1], dimension), generator=draws, dtype=torch.int8)
            out += part @ (2 * signs.to(part) - 1)
    out /= dimension**0.5
    return out
