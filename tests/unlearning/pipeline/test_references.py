"""References beside the methods."""

from pathlib import Path

import torch

from unlearning.api.view import View
from unlearning.pipeline.references import constant_predictor
from unlearning.pipeline.source import open_source


def test_the_constant_predictor_answers_with_the_class_shares(run: Path) -> None:
    model = open_source(run).model
    y = torch.tensor([0, 0, 0, 1])
    constant = constant_predictor(model, View(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), y))
    logits = constant(torch.randn(3, 1, 8, 8))
    shares = (torch.bincount(y, minlength=10) + 1) / (4 + 10)
    assert torch.allclose(logits.softmax(1), shares.expand(3, 10), atol=1e-6)
