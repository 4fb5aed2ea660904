"""Max pooling with the same bits as torch's, in a third of the time on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_max_pool, _max_pool_backward = torch.ops.aten.max_pool2d_with_indices, torch.ops.aten.max_pool2d_with_indices_backward


class QuickMaxPool2d(nn.MaxPool2d):
    """Max pooling that makes the planes (samples times channels) the innermost dimension while it computes.

    Torch compares one number at a time if planes are contiguous. It compares a whole vector of planes if the channels
    are innermost. This saves more time than the two copies cost. The outputs, the gradients and the choice among equal
    numbers are those of torch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the maxima of images (B, C, H, W), (B, C, H', W')."""
        plain = input.dim() == 4 and input.device.type == "cpu" and input.is_contiguous() and input.numel() > 0
        if self.return_indices or not plain:
            result: Tensor = super().forward(input)
            return result
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation)
        out: Tensor = _MaxPool.apply(input, [_pair(value) for value in geometry], self.ceil_mode)[0]
        return out


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _MaxPool(torch.autograd.Function):
    """Maps images (B, C, H, W) to their maxima and, for each maximum, its position in the plane, int64."""

    @staticmethod
    def forward(x: Tensor, geometry: list[list[int]], ceil_mode: bool) -> tuple[Tensor, Tensor]:
        planes = x.reshape(1, -1, *x.shape[2:]).contiguous(memory_format=torch.channels_last)
        found = _max_pool(planes, *geometry, ceil_mode)
        out, places = (part.contiguous().view(*x.shape[:2], *part.shape[2:]) for part in found)
        return out, places

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.geometry, ctx.ceil_mode = inputs
        ctx.save_for_backward(x, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, places = ctx.saved_tensors
        return _max_pool_backward(grads[0], x, *ctx.geometry, ctx.ceil_mode, places), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, geometry: list[list[int]], ceil_mode: bool
    ) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        assert in_dims[0] is not None  # without a mapped dimension, vmap does not call this
        x = x.movedim(in_dims[0], 0)
        results = _MaxPool.apply(x.flatten(0, 1), geometry, ceil_mode)
        return tuple(part.unflatten(0, (info.batch_size, -1)) for part in results), (0, 0)
