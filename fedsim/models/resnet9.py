"""ResNet-9 of the work on datamodels (arXiv:2202.00622, arXiv:2410.23232): quick to train on CIFAR many times.

Differs from the authors' network: the classifier has an intercept, as all classifiers here.
"""

from torch import Tensor, nn

from fedsim.models.base import Features, norm_2d
from fedsim.models.config import Norm

_SCALE = 0.2


class Residual(nn.Module):
    """x + f(x) for layers f that keep the shape."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        residual: Tensor = self.layers(x)
        return x + residual


class Scaled(nn.Module):
    """Features times 0.2, as the authors scale logits: so the classifier's weights take smaller steps."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D) to the same shape."""
        return _SCALE * x


def resnet9(input_shape: tuple[int, ...], norm: Norm = "batch", width: int = 64) -> Features:
    """Return eight convolutions, with `width` to 4 `width` channels, and a maximum over positions."""

    def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        return [convolution, *norm_2d(norm, outputs), nn.ReLU()]

    one, two, four = width, 2 * width, 4 * width
    network = nn.Sequential(
        *block(input_shape[0], one),
        *block(one, two, kernel=5, stride=2, padding=2),
        Residual(*block(two, two), *block(two, two)),
        *block(two, four),
        nn.MaxPool2d(2),
        Residual(*block(four, four), *block(four, four)),
        *block(four, two, padding=0),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scaled()),
    )
    return network, two
