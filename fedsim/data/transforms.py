"""Normalisation and augmentation of whole batches, on their device."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.config import Augment, StrongView

_SHEAR, _SPREAD = 10.0, 0.2
"""Largest shear in degrees and largest relative change, as in MUFAC (arXiv:2311.02240)."""


def normalize(
    x: Tensor, mean: tuple[float, ...] | Tensor, std: tuple[float, ...] | Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return raw samples as a model's inputs.

    Images uint8 (..., C, H, W) become (x / 255 - mean) / std per channel, and rows of floats (..., D) become
    (x - mean) / std, both in `dtype`. Characters of a text, int16 (..., L), become int64 and keep their values.
    """
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        return x.long()
    centre, scale = (torch.as_tensor(values, dtype=torch.float32, device=x.device) for values in (mean, std))
    if x.dtype != torch.uint8:
        return ((x - centre) / scale).to(dtype)
    return x.float().sub_(255 * centre[:, None, None]).div_(255 * scale[:, None, None]).to(dtype)


def crop_padding(input_shape: tuple[int, ...]) -> int:
    """Return the zero padding before a random crop: 4 pixels, 1 for images under 16 pixels, 0 for tables."""
    return 0 if len(input_shape) < 3 else 1 if min(input_shape[1:]) < 16 else 4


def no_draws(shape: tuple[int, ...], kind: Augment, pad: int) -> npt.NDArray[Any]:
    """Return draws, (*shape, D), that do not change images: see `draw_augmentation`."""
    if kind == "flip_affine_jitter":
        return np.full((*shape, 6), (0, 0, 1, 1, 1, 1), np.float32)
    return np.full((*shape, 3), (pad, pad, 0), np.int64)  # the middle crop, which is the image itself


def draw_augmentation(rng: np.random.Generator, num: int, kind: Augment, pad: int) -> npt.NDArray[Any]:
    """Draw the augmentation of `num` images, (num, D).

    crop and flip: (dy, dx, flip) int64, a corner in 0..2*pad of the padded image, and 0 or 1. flip_affine_jitter:
    (flip, shear in degrees, scale, brightness, contrast, saturation) float32, with factors around 1.
    """
    draws = no_draws((num,), kind, pad)
    if kind == "flip_affine_jitter":
        draws[:, 0], draws[:, 1] = rng.integers(0, 2, num), rng.uniform(-_SHEAR, _SHEAR, num)
        draws[:, 2:] = rng.uniform(1 - _SPREAD, 1 + _SPREAD, (num, 4))
        return draws
    if kind in ("crop", "crop_flip"):
        draws[:, :2] = rng.integers(0, 2 * pad + 1, (num, 2))
    if kind in ("flip", "crop_flip"):
        draws[:, 2] = rng.integers(0, 2, num)
    return draws


def augment(x: Tensor, draws: Tensor, pad: int) -> Tensor:
    """Zero-pad images (B, C, H, W) by `pad`, crop each at its (dy, dx), then mirror it left to right if flip is 1.

    `draws` is (B, D) on the device of `x`, see `draw_augmentation`. With D = 6, images are instead mirrored, sheared
    and scaled about their centre, and their colours are changed. The result has the shape and dtype of `x`, and its own
    memory.
    """
    if draws.shape[1] == 6:
        return _jittered(_warped(x, draws), draws)
    b, c, h, w = x.shape
    dy, dx, flip = draws[:, :, None].unbind(1)
    columns = torch.arange(w, device=x.device)
    rows = dy + torch.arange(h, device=x.device)  # (B, H)
    columns = dx + torch.where(flip == 1, w - 1 - columns, columns)  # (B, W)
    images = torch.arange(b, device=x.device)[:, None, None, None]
    channels = torch.arange(c, device=x.device)[:, None, None]
    return F.pad(x, (pad, pad, pad, pad))[images, channels, rows[:, None, :, None], columns[:, None, None, :]]


def _warped(x: Tensor, draws: Tensor) -> Tensor:
    """Return images mirrored, sheared and scaled, with nearest-neighbour sampling and zeros outside."""
    flip, shear, scale = draws[:, 0], torch.deg2rad(draws[:, 1]), draws[:, 2]
    mirror, none = 1 - 2 * flip, torch.zeros_like(flip)
    # The source position of each pixel, in units of half the side: the inverse of a shear, a scaling and a mirror.
    columns = torch.stack([mirror / scale, mirror * torch.tan(shear) / scale, none], 1)
    rows = torch.stack([none, 1 / scale, none], 1)
    grid = F.affine_grid(torch.stack([columns, rows], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, mode="nearest", align_corners=False)


def _jittered(x: Tensor, draws: Tensor) -> Tensor:
    """Return images with values in 0..255 as uint8, with brightness, contrast and saturation changed in that order."""
    brightness, contrast, saturation = (draws[:, k].view(-1, 1, 1, 1) for k in (3, 4, 5))
    x = (x * brightness).clamp(0, 255)
    x = torch.lerp(_grey(x).mean((2, 3), keepdim=True).expand_as(x), x, contrast).clamp(0, 255)
    if x.shape[1] == 3:
        x = torch.lerp(_grey(x).expand_as(x), x, saturation)
    return x.round().clamp(0, 255).to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    """Return the luma of images, (B, 1, H, W)."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(-1, 1, 1)).sum(1, keepdim=True) if x.shape[1] == 3 else x


def strong_view(x: Tensor, mean: Tensor, std: Tensor, view: StrongView) -> Tensor:
    """Return normalised, strongly augmented samples (B, ...) from raw ones; draws come from torch's CPU generator.

    All images of a call get the same draw of RandAugment's operations; features of rows are drawn one by one.
    """
    if x.dtype == torch.uint8:
        return normalize(_rand_augment(view.num_ops, view.magnitude)(x), mean, std)
    rows = normalize(x, mean, std)
    kept = torch.rand(rows.shape) >= view.feature_dropout
    noise = view.feature_noise * torch.randn(rows.shape)
    return rows * kept.to(rows.device) + noise.to(rows)


@cache
def _rand_augment(num_ops: int, magnitude: int) -> Any:
    from torchvision.transforms import v2  # imported here: it takes a second, and few runs need it

    return v2.RandAugment(num_ops, magnitude)
