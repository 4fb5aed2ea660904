"""How much of each block a method has changed."""

import copy

import pytest
import torch

from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from unlearning.pipeline.changes import block_changes, draw_changes


def test_a_change_is_found_in_its_block_relative_to_its_weights() -> None:
    config = ModelConfig(name="vit", width=8, depth=3, heads=2, patch=4)
    before = build_model(config, (1, 8, 8), 4, 0)
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.features.encoder[2].parameters():
            parameter *= 1.5
    changes = block_changes(before, after)
    blocks = [f"features.encoder.{number}" for number in (1, 2, 3, 4)]  # the last is the layer norm
    assert list(changes) == ["features.class_token", "features.positions", "features.patches", *blocks, "classifier"]
    assert {name for name, value in changes.items() if value} == {"features.encoder.2"}
    assert changes["features.encoder.2"] == pytest.approx(0.5)
    figure = draw_changes(before, {"own": after, "none": before})
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == ["own: 1 of 8 touched", "none: 0 of 8 touched"]
