"""ResNet-9: eight convolutions, half of the last widths as features, and every norm."""

import pytest
import torch
from torch import nn

from fedsim.models.config import Norm
from fedsim.models.resnet9 import resnet9


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_eight_convolutions_and_twice_the_width_as_features(norm: Norm) -> None:
    network, features = resnet9((3, 32, 32), norm, width=8)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [8, 16, 16, 16, 32, 32, 32, 16]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, features) == (2, 16)
