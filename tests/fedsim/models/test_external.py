"""Networks of torchvision and timm by name, their heads cut off."""

from __future__ import annotations

import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig


@pytest.mark.parametrize(
    ("name", "shape", "features"),
    [
        ("torchvision:resnet50", (3, 32, 32), 2048),
        ("torchvision:mobilenet_v3_small", (3, 32, 32), 1024),
        ("timm:vit_tiny_patch16_224", (3, 32, 32), 192),
        ("timm:resnet10t", (1, 32, 32), 512),
    ],
)
def test_a_network_by_name(name: str, shape: tuple[int, ...], features: int) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model, again = (build_model(ModelConfig(name=name), shape, 7, seed=3) for _ in range(2))
    assert (model.feature_dim, model.training) == (features, True)
    assert model.eval()(torch.zeros(2, *shape)).shape == (2, 7)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("torchvision:resnet49", (3, 32, 32), "torchvision has no model 'resnet49'; did you mean"),
        ("torchvision:resnet18", (1, 32, 32), "torchvision:resnet18 does not accept inputs of shape (1, 32, 32)"),
        ("torchvision:squeezenet1_0", (3, 64, 64), "torchvision:squeezenet1_0"),
        ("timm:vit_small", (3, 32, 32), "timm has no model 'vit_small'"),
    ],
)
def test_what_cannot_be_had_is_one_line(name: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(FedsimError) as error:
        build_model(ModelConfig(name=name), shape, 7, seed=0)
    assert str(error.value).startswith(f"model.name: {says}")
    assert "\n" not in str(error.value)


def test_options_of_the_zoo_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"^model.width: torchvision:resnet18 has no such option"):
        ModelConfig(name="torchvision:resnet18", width=3)
