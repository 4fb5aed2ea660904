"""ModHiFi-P: the place of a channel in both of its readings."""

from __future__ import annotations

import pytest
import torch

from unlearning.modhifi_p import best_place


def test_the_best_place_of_each_reading() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.8, 0.3]])
    assert best_place(scores, "output").tolist() == [0, 0, pytest.approx(1 / 3)]
    assert best_place(scores, "layer").tolist() == [0, pytest.approx(1 / 6), pytest.approx(2 / 6)]
