"""Hypernetworks: their size, and clipping."""

import pytest
import torch

from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from strategies.hypernetwork import clipped, generate, new_hypernetwork
from strategies.pefll import PefllConfig


def test_gradients_are_clipped_together():
    gradients = {"a": torch.full((4,), 3.0), "b": torch.full((9,), 4.0)}
    assert clipped(gradients, 1e3) is gradients
    cut = clipped(gradients, 2.0)
    assert float(torch.cat(list(cut.values())).norm()) == pytest.approx(2.0)
    assert float(cut["a"][0] / cut["b"][0]) == pytest.approx(0.75)


def test_sizes_are_those_of_the_paper():
    """CIFAR-10, n = 100: client 121,182, embedding 126,542, hypernetwork 12,272,382; l counts all clients."""
    lenet = ModelConfig(name="lenet_pfl")
    model = build_model(lenet, (3, 32, 32), 10, 0)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    hypernetwork = new_hypernetwork(26, 100, 3, shapes, 0, torch.zeros(()))
    embedding = build_model(lenet, (13, 32, 32), 26, 0)
    assert sum(p.numel() for p in model.parameters()) == 121_182
    assert sum(p.numel() for p in embedding.parameters()) == 126_542
    assert sum(value.numel() for value in hypernetwork.values()) == 12_272_382
    made = generate(hypernetwork, torch.zeros(1, 26), shapes)
    assert {name: value.shape[1:] for name, value in made.items()} == shapes
    assert [PefllConfig(name="pefll").size(n) for n in (100, 500, 1000, 3597)] == [26, 126, 251, 900]
