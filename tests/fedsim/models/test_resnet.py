"""Residual networks against torchvision's."""

import pytest
import torch
import torchvision
from torch import nn

from fedsim.models import ModelConfig
from fedsim.models.build import build_model


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_cifar_resnet_is_torchvisions_with_another_stem(name: str) -> None:
    model = build_model(ModelConfig(name=name), (3, 16, 16), 10, seed=0).eval()
    twin = getattr(torchvision.models, name)(num_classes=10)
    twin.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    twin.maxpool = nn.Identity()
    # Both list their tensors from input to output, projections last within a block.
    weights = [tensor.clone() for tensor in model.state_dict().values()]
    twin.load_state_dict(dict(zip(twin.state_dict(), weights, strict=True)))
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.double()(x.double()), twin.eval().double()(x.double()))
