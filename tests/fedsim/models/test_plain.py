"""Multilayer perceptrons."""

from torch import nn

from fedsim.models import ModelConfig
from fedsim.models.build import build_model


def test_an_mlp_with_batch_norm_has_the_layers_asked_for() -> None:
    model = build_model(ModelConfig(name="mlp", norm="batch", hidden=(128, 64)), (1, 8, 8), 10, seed=0)
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in model.features.children()] == [nn.Flatten, *block, *block]
    assert [p.shape for p in model.parameters() if p.dim() == 2] == [(128, 64), (64, 128), (10, 64)]
