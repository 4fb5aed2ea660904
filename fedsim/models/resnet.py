"""Residual networks (arXiv:1512.03385): the CIFAR forms, and torchvision's ImageNet form of ResNet-18."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torchvision
from torch import Tensor, nn

from fedsim.models.base import Features, group_norm, norm_2d
from fedsim.models.config import Norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where the shape changes (option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), *norm_2d(norm, outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), *norm_2d(norm, outputs)),
        )
        same = stride == 1 and inputs == outputs
        projection = [] if same else [nn.Conv2d(inputs, outputs, 1, stride, bias=False), *norm_2d(norm, outputs)]
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride), all entries >= 0."""
        return nn.functional.relu(self.residual(x) + self.shortcut(x))


def cifar_resnet(input_shape: tuple[int, ...], norm: Norm, width: int, blocks: Sequence[int]) -> Features:
    """Return a 3x3 stem, one stage per entry of `blocks`, and global average pooling.

    Each stage has that many blocks and doubles the channels. Every convolution starts from He's normal distribution
    (arXiv:1502.01852), as in the paper.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        *norm_2d(norm, width),
        nn.ReLU(),
    ]
    widths = [width * 2**stage for stage in range(len(blocks))]
    for stage, (inputs, outputs) in enumerate(pairwise((width, *widths))):
        layers.append(BasicBlock(inputs, outputs, stride=1 if stage == 0 else 2, norm=norm))
        layers += [BasicBlock(outputs, outputs, stride=1, norm=norm) for _ in range(blocks[stage] - 1)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network, widths[-1]


def resnet8(input_shape: tuple[int, ...], norm: Norm = "batch", width: int = 16) -> Features:
    """Return the CIFAR network of He et al. with one block per stage."""
    return cifar_resnet(input_shape, norm, width, blocks=(1, 1, 1))


def resnet32(input_shape: tuple[int, ...], norm: Norm = "batch", width: int = 16) -> Features:
    """Return the CIFAR network of He et al. with five blocks per stage."""
    return cifar_resnet(input_shape, norm, width, blocks=(5, 5, 5))


def resnet18(input_shape: tuple[int, ...], norm: Norm = "batch", width: int = 64) -> Features:
    """Return ResNet-18 with the stem for small images."""
    return cifar_resnet(input_shape, norm, width, blocks=(2, 2, 2, 2))


def resnet34(input_shape: tuple[int, ...], norm: Norm = "batch", width: int = 64) -> Features:
    """Return ResNet-34 with the stem for small images."""
    return cifar_resnet(input_shape, norm, width, blocks=(3, 4, 6, 3))


def tv_resnet18(input_shape: tuple[int, ...], norm: Norm = "batch") -> Features:
    """Return torchvision's ResNet-18 without its `fc`; the stem takes any number of channels."""
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d if norm == "batch" else group_norm
    network: nn.Module = torchvision.models.resnet18(weights=None, norm_layer=norm_layer)
    network.fc = nn.Identity()
    if input_shape[0] != 3:
        network.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network, 512
