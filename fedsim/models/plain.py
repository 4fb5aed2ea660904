"""Models without skip connections, from logistic regression to small convolutional networks."""

import math
from itertools import pairwise

from torch import nn

from fedsim.models.base import Features, norm_1d, norm_2d
from fedsim.models.config import Norm


def linear(input_shape: tuple[int, ...]) -> Features:
    """Return the flattened input as the features."""
    return logistic(input_shape)


def logistic(input_shape: tuple[int, ...]) -> Features:
    """Return the flattened input as the features."""
    return nn.Flatten(), math.prod(input_shape)


def mlp(
    input_shape: tuple[int, ...], norm: Norm = "none", hidden: tuple[int, ...] = (200,), dropout: float = 0.0
) -> Features:
    """Return a Linear-(norm)-ReLU-(dropout) block per hidden layer.

    `hidden=(200, 200)` is the 2NN of FedAvg (arXiv:1602.05629).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in pairwise((math.prod(input_shape), *hidden)):
        layers += [nn.Linear(inputs, units), *norm_1d(norm, units), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers), hidden[-1]


def cnn(input_shape: tuple[int, ...], norm: Norm = "none", width: int = 8) -> Features:
    """Return two 3x3 convolutions of stride 2 (`width` and 4 `width` channels) and a layer of 64.

    Stride replaces pooling, and there are few channels where the image is largest: with a cohort's stacked weights,
    most time is spent on the first activation maps. It reaches about 97 % on digits; pooled, 16-32 channels reach 98 %.
    """
    channels, height, image_width = input_shape
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, width, 4 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), *norm_2d(norm, outputs), nn.ReLU()]
    flat = 4 * width * math.ceil(height / 4) * math.ceil(image_width / 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 64), nn.ReLU()), 64


def lenet5(input_shape: tuple[int, ...]) -> Features:
    """Return LeNet-5 (LeCun et al. 1998) in its usual modern form: ReLU, max-pooling, padding 2 in the first layer."""
    channels, height, width = input_shape
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    layers = nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
    )
    return layers, 84


def lenet_pfl(input_shape: tuple[int, ...]) -> Features:
    """Return the LeNet of pFedHN (arXiv:2103.04628) and PeFLL (arXiv:2306.05515), without padding.

    It has 121,182 weights for ten classes and 3x32x32 images.
    """
    channels, height, width = input_shape
    flat = 32 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    layers = nn.Sequential(
        *(nn.Conv2d(channels, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
    )
    return layers, 84


def pfl_cnn(input_shape: tuple[int, ...], dropout: float | None = None) -> Features:
    """Return the network of federated EMNIST (arXiv:2003.00295): 1.2 million parameters on 28x28 images.

    `dropout` replaces both rates, 0.25 after pooling and 0.5 before the classifier.
    """
    channels, height, width = input_shape
    early, late = (0.25, 0.5) if dropout is None else (dropout, dropout)
    flat = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    layers = nn.Sequential(
        *(nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(early)),
        *(nn.Flatten(), nn.Linear(flat, 128), nn.ReLU(), nn.Dropout(late)),
    )
    return layers, 128
