"""Layers of many clients at once as matrix products, where that is faster than `torch.func.vmap`.

Linear layers: the gradients of vmap come transposed, so every update of the weights reads memory in strides.

Convolutions: vmap uses a grouped convolution with one group per client. On a CPU, its backward pass reaches a tenth of
a core's speed if there are few channels. Here the windows of the images are gathered first. The batch is the innermost
dimension, so contiguous runs are copied. The rest is out (O, L B) = W (O, K) columns (K, L B) for each client, with
K = channels times kernel, and L positions.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.pooling import QuickMaxPool2d

_MOST_CHANNELS = 16
_MOST_COPIES = 3
"""Mean number of copies of each input value; with more, copying costs more than the products save."""
_MOST_POSITIONS = 256


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b for samples (B, I) and one client's weights (O, I)."""
    if x.dim() == 2 and _is_of_lanes(weight):
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return F.linear(x, weight, bias)


class LaneLinear(nn.Linear):
    """A linear layer that is fast for clients trained at once."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (B, O) of samples (B, I)."""
        return linear(input, self.weight, self.bias)


class LaneConv2d(nn.Conv2d):
    """A convolution as matrix products for clients trained at once, in the cases that were measured to be faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of images (B, C, H, W)."""
        if _is_of_lanes(self.weight) and self._is_small(input):
            out: Tensor = _Conv2d.apply(input, self.weight, self.bias, self.stride, self.padding)
            return out
        return super().forward(input)

    def _is_small(self, x: Tensor) -> bool:
        if self.groups > 1 or isinstance(self.padding, str) or self.padding_mode != "zeros" or self.dilation != (1, 1):
            return False
        if x.dim() != 4 or x.device.type != "cpu":
            return False
        steps = self.stride[0] * self.stride[1]
        copies, positions = self.kernel_size[0] * self.kernel_size[1] / steps, x.shape[2] * x.shape[3] / steps
        return self.in_channels <= _MOST_CHANNELS and copies <= _MOST_COPIES and positions <= _MOST_POSITIONS


def for_lanes(module: nn.Module) -> nn.Module:
    """Replace torch's own layers in a module, itself included, by those here and in `pooling`; return the module."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = LaneLinear
        elif type(part) is nn.Conv2d:
            part.__class__ = LaneConv2d
        elif type(part) is nn.MaxPool2d:
            part.__class__ = QuickMaxPool2d
    return module


def _is_of_lanes(weight: Tensor) -> bool:
    """Return whether the weight has one copy per client. Under autocast, torch's own layers are used."""
    return bool(torch._C._functorch.is_batchedtensor(weight)) and not torch.is_autocast_enabled(weight.device.type)


def _stacked(value: Tensor, dim: int | None, lanes: int) -> Tensor:
    return value.expand(lanes, *value.shape) if dim is None else value.movedim(dim, 0)


# Linear layers --------------------------------------------------------------------------------------------------------


class _StackedLinear(torch.autograd.Function):
    """Linear layers of samples (N, B, I), weights (N, O, I) and biases (N, O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        turned = weight.transpose(1, 2)
        return torch.bmm(x, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, turned)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (grad,) = ctx.saved_tensors, grads
        of_x = _laid_out_as(x, torch.bmm(grad, weight)) if ctx.needs_input_grad[0] else None
        of_weight = torch.bmm(grad.transpose(1, 2), x) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, grad.sum(1) if ctx.biased else None


def _laid_out_as(x: Tensor, grad: Tensor) -> Tensor:
    """Return a gradient (N, B, I) with the memory layout of `x`, if the samples are innermost there.

    They are after a convolution. The layers below read `x` and its gradient together, which is slow if one of them is
    read in strides.
    """
    return grad.mT.contiguous().mT if x.mT.is_contiguous() else grad


class _Linear(torch.autograd.Function):
    """The same for one client, under `vmap` only."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise AssertionError("it is called under vmap only")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        own = None if bias is None else _stacked(bias, in_dims[2], lanes)
        return _StackedLinear.apply(_stacked(x, in_dims[0], lanes), _stacked(weight, in_dims[1], lanes), own), 0


# Convolutions ---------------------------------------------------------------------------------------------------------


class _Tables(NamedTuple):
    """The positions of an image's windows. Pixels are numbered from 0; the number after the last one is a zero."""

    pixels: Tensor
    """(K L,) int64: the pixel at each place of the windows."""
    places: Tensor
    """(M C H W,) int64: up to M places that show each pixel; the number after the last place is a zero."""
    size: tuple[int, int]
    """(height, width) of the output."""


_known: set[int] = set()
"""The memory addresses of the tables, which are never freed."""


def is_table(tensor: Tensor) -> bool:
    """Return whether a tensor is one of the tables of this file, which nobody writes to."""
    return tensor.untyped_storage().data_ptr() in _known


@functools.cache
def _tables(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> _Tables:
    count = shape[0] * shape[1] * shape[2]
    numbers = torch.arange(count, dtype=torch.int64).view(shape)
    padded = F.pad(numbers, (padding[1], padding[1], padding[0], padding[0]), value=count)
    windows = padded.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # (C, H', W', h, w)
    pixels = windows.permute(0, 3, 4, 1, 2).flatten().contiguous()
    order = torch.argsort(pixels, stable=True)
    shown = torch.bincount(pixels, minlength=count + 1)[:count]
    first = shown.cumsum(0) - shown
    place = torch.arange(int(shown.max()))[:, None]
    places = torch.where(place < shown, order[(first + place).clamp_max(len(order) - 1)], len(pixels)).flatten()
    _known.update(table.untyped_storage().data_ptr() for table in (pixels, places))
    return _Tables(pixels, places, (windows.shape[1], windows.shape[2]))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
    """Return the convolution of images (N, B, C, H, W) with weights (N, O, C, h, w) and biases (N, O)."""
    lanes, batch, *shape = x.shape
    tables = _tables(tuple(shape), tuple(weight.shape[-2:]), stride, padding)
    columns: Tensor = _Windows.apply(x.permute(0, 2, 3, 4, 1).reshape(lanes, -1, batch), tables)
    columns = columns.view(lanes, weight[0, 0].numel(), -1)
    matrix = weight.reshape(lanes, weight.shape[1], -1)
    out = torch.bmm(matrix, columns) if bias is None else torch.baddbmm(bias.unsqueeze(-1), matrix, columns)
    return out.view(lanes, -1, *tables.size, batch).permute(0, 4, 1, 2, 3)


class _Windows(torch.autograd.Function):
    """From images (N, C H W, B) to their windows (N, K L, B). The backward pass gathers as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tables: _Tables) -> Tensor:
        ctx.tables, ctx.rows = tables, x.shape[1]
        return _rows(x, tables.pixels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        shown = _rows(grad, ctx.tables.places)
        return shown.view(len(grad), -1, ctx.rows, grad.shape[2]).sum(1), None


def _rows(values: Tensor, table: Tensor) -> Tensor:
    """Return the rows of values (N, R, B) that a table lists, (N, len(table), B); row R is zero."""
    return F.pad(values, (0, 0, 0, 1)).index_select(1, table)


class _Conv2d(torch.autograd.Function):
    """The same for one client, under `vmap` only."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise AssertionError("it is called under vmap only")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any,
        padding: Any,
    ) -> tuple[Tensor, int]:  # fmt: skip
        lanes = info.batch_size
        own = None if bias is None else _stacked(bias, in_dims[2], lanes)
        x, weight = _stacked(x, in_dims[0], lanes), _stacked(weight, in_dims[1], lanes)
        return _convolved(x, weight, own, stride, padding), 0
