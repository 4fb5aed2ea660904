"""Normalisation and augmentation of whole batches on their device."""

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.config import StrongView


def normalize(x: Tensor, mean: tuple[float, ...] | Tensor, std: tuple[float, ...] | Tensor) -> Tensor:
    """Return (x / 255 - mean) / std per channel for uint8 (..., C, H, W), (x - mean) / std for float (..., D)."""
    centre, scale = (torch.as_tensor(values, dtype=torch.float32, device=x.device) for values in (mean, std))
    if x.dtype != torch.uint8:
        return (x - centre) / scale
    return x.float().sub_(255 * centre[:, None, None]).div_(255 * scale[:, None, None])


def crop_padding(input_shape: tuple[int, ...]) -> int:
    """Return the zero padding before a random crop: 4 pixels, 1 for images under 16 pixels, 0 for tables."""
    return 0 if len(input_shape) < 3 else 1 if min(input_shape[1:]) < 16 else 4


def draw_augmentation(
    rng: np.random.Generator, num: int, kind: Literal["none", "crop", "crop_flip"], pad: int
) -> npt.NDArray[np.int64]:
    """Draw (dy, dx, flip) for `num` images, (num, 3): a corner in 0..2*pad of the padded image, and 0 or 1."""
    draws = np.full((num, 3), (pad, pad, 0), dtype=np.int64)  # the middle crop: the image itself
    if kind != "none":
        draws[:, :2] = rng.integers(0, 2 * pad + 1, (num, 2))
    if kind == "crop_flip":
        draws[:, 2] = rng.integers(0, 2, num)
    return draws


def augment(x: Tensor, draws: Tensor, pad: int) -> Tensor:
    """Zero-pad images (B, C, H, W) by `pad`, crop each at its (dy, dx), then mirror left to right where flip is 1.

    `draws` is int64 (B, 3) on the device of `x`; the result has the shape and dtype of `x` and owns its memory.
    """
    b, c, h, w = x.shape
    dy, dx, flip = draws[:, :, None].unbind(1)
    columns = torch.arange(w, device=x.device)
    rows = dy + torch.arange(h, device=x.device)  # (B, H)
    columns = dx + torch.where(flip == 1, w - 1 - columns, columns)  # (B, W)
    images = torch.arange(b, device=x.device)[:, None, None, None]
    channels = torch.arange(c, device=x.device)[:, None, None]
    return F.pad(x, (pad, pad, pad, pad))[images, channels, rows[:, None, :, None], columns[:, None, None, :]]


def strong_view(x: Tensor, mean: Tensor, std: Tensor, view: StrongView) -> Tensor:
    """Return normalised, strongly augmented samples (B, ...) of raw ones, drawing from torch's own CPU generator.

    One draw of RandAugment's operations serves all images of a call; features of rows are drawn one by one.
    """
    if x.dtype == torch.uint8:
        return normalize(_rand_augment(view.num_ops, view.magnitude)(x), mean, std)
    rows = normalize(x, mean, std)
    kept = torch.rand(rows.shape) >= view.feature_dropout
    noise = view.feature_noise * torch.randn(rows.shape)
    return rows * kept.to(rows.device) + noise.to(rows)


@cache
def _rand_augment(num_ops: int, magnitude: int) -> Any:
    from torchvision.transforms import v2  # here, as its import takes a second that few runs need

    return v2.RandAugment(num_ops, magnitude)
