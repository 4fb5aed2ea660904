"""Blocks in order, norms with the block before them, and fresh weights from the layers' own distributions."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.errors import FedsimError
from tests.unlearning.digits_views import differs, new_model
from unlearning.parts.blocks import blocks, reset, tail


def test_norms_belong_to_the_block_before_them() -> None:
    model = new_model("cnn", "batch")
    found = blocks(model)
    assert all(isinstance(part[0], nn.Conv2d | nn.Linear) for part in found)
    assert any(isinstance(module, nn.BatchNorm2d) for part in found for module in part[1:])
    owned = {id(p) for part in found for module in part for p in module.parameters()}
    assert owned == {id(p) for p in model.features.parameters()}


def test_a_tail_of_all_blocks_is_the_model() -> None:
    model = new_model("cnn", "batch")
    assert tail(model, 0) == [model.classifier]
    assert tail(model, 1) == [*blocks(model)[-1], model.classifier]
    assert tail(model, len(blocks(model))) == [model.features, model.classifier]


def test_weights_are_drawn_anew_and_the_same_from_the_same_generator() -> None:
    before, one, two = (new_model("cnn", "batch") for _ in range(3))
    state = torch.get_rng_state()
    for model in (one, two):
        reset([model.classifier], np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert differs(one, before) == {"classifier.weight", "classifier.bias"}
    assert not differs(one, two)
    assert one.classifier.weight.abs().max() <= one.classifier.in_features**-0.5  # as nn.Linear draws


def test_a_module_that_cannot_be_drawn_anew_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(FedsimError, match=r"^Bare cannot be drawn anew; give it reset_parameters\(\)$"):
        reset([Bare()], np.random.default_rng(0))
