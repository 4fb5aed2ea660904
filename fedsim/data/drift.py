"""Label noise and feature shift: each client draws its own; the test set does not change.

label noise     client k draws r_k uniformly from (low, high); round(r_k n_k) of its training samples, drawn without
                replacement, get a label drawn uniformly from the other classes.
feature shift   x -> clip(c_k (x - 1/2) + 1/2 + b_k + N(0, noise (k + 1) / K)) for images with pixels in [0, 1], rotated
                by a_k; b_k and c_k - 1 uniform up to plus or minus brightness and contrast, a_k one of the angles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.data.datasets import Dataset
from fedsim.data.drift_config import FeatureShiftConfig, LabelNoiseConfig
from fedsim.data.listing import CodedColumn
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError
from fedsim.randomness import generator

NOISE_COLUMN = "label_noise"
"""The column that marks wrong training labels: `--forget label_noise=wrong`."""


def with_label_noise(dataset: Dataset, partition: Partition, config: LabelNoiseConfig, seed: int) -> Dataset:
    """Return the data set with wrong labels at the clients of a partition, and a column that marks them.

    Raises
    ------
    FedsimError
        If the data set has no classes.
    """
    if not dataset.has_classes:
        raise FedsimError(f"data.label_noise: needs classes, and {dataset.name} has {dataset.targets}; leave it out")
    y, wrong = dataset.y_train.copy(), np.zeros(len(dataset.y_train), np.int64)
    for client in range(len(partition)):
        rng, rows = generator(seed, "label noise", client), partition[client]
        some = rng.permutation(rows)[: round(rng.uniform(config.low, config.high) * len(rows))]
        y[some] = (y[some] + rng.integers(1, dataset.num_classes, len(some))) % dataset.num_classes
        wrong[some] = 1
    columns = {**dataset.columns, NOISE_COLUMN: CodedColumn(wrong, ("right", "wrong"))}
    return replace(dataset, y_train=y, columns=columns)


def with_feature_shift(dataset: Dataset, partition: Partition, config: FeatureShiftConfig, seed: int) -> Dataset:
    """Return the data set with the training inputs of each client shifted, including those held out later.

    Raises
    ------
    FedsimError
        If the inputs are a text, or if they are a table and anything except noise is configured.
    """
    images = dataset.x_train.dtype == np.uint8 and dataset.x_train.ndim == 4
    if dataset.is_text or (not images and (config.brightness or config.contrast or config.rotation)):
        what = "is a text" if dataset.is_text else "has no images, which alone can be turned or brightened"
        raise FedsimError(f"data.feature_shift: {dataset.name} {what}; leave it out")
    x = dataset.x_train.copy()
    for client in range(len(partition)):
        rng, rows = generator(seed, "feature shift", client), partition[client]
        deviation = np.sqrt(config.noise * (client + 1) / len(partition))
        x[rows] = _image_shift(x[rows], config, deviation, rng) if images else _noisy(x[rows], deviation, rng)
    return replace(dataset, x_train=x)


def _noisy(x: npt.NDArray[Any], deviation: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return (x + deviation * rng.standard_normal(x.shape)).astype(np.float32)


def _image_shift(
    x: npt.NDArray[np.uint8], config: FeatureShiftConfig, deviation: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return images (n, C, H, W) with the shift of one client."""
    brightness = rng.uniform(-config.brightness, config.brightness)
    contrast = rng.uniform(1 - config.contrast, 1 + config.contrast)
    if config.rotation and len(x):
        x = _turned(x, float(rng.choice(config.rotation)))
    shifted = contrast * (x / 255 - 0.5) + 0.5 + brightness + deviation * rng.standard_normal(x.shape)
    pixels: npt.NDArray[np.uint8] = np.rint(255 * shifted.clip(0, 1)).astype(np.uint8)
    return pixels


def _turned(x: npt.NDArray[np.uint8], degrees: float) -> npt.NDArray[np.uint8]:
    """Return images rotated counter-clockwise about their centre, with zeros outside."""
    if degrees % 90 == 0 and x.shape[2] == x.shape[3]:
        quarter: npt.NDArray[np.uint8] = np.rot90(x, int(degrees // 90), (2, 3))
        return quarter
    import torch
    from torchvision.transforms.v2 import functional as vision  # imported here: it takes a second, and few runs need it

    turned = vision.rotate(torch.from_numpy(x), degrees, vision.InterpolationMode.BILINEAR)
    out: npt.NDArray[np.uint8] = turned.numpy()
    return out
