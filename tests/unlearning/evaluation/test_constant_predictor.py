"""The best constant answer."""

import math

import numpy as np
import pytest

from unlearning.evaluation.accuracies import accuracy
from unlearning.evaluation.constant_predictor import constant_logits
from unlearning.evaluation.scores import losses, predictions


def test_the_constant_predictor_is_the_best_constant():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    z = constant_logits(y, 3, len(y))
    assert (predictions(z) == 0).all()
    assert accuracy(z, y) == 0.5
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert losses(z, y).mean() == pytest.approx(entropy, abs=1e-3)  # smoothing costs 3 counts in 100
    assert np.isfinite(constant_logits([1, 1], 4, 2)).all()
    with pytest.raises(ValueError, match="3 classes"):
        constant_logits([3], 3, 1)


def test_the_constant_of_several_labels_has_their_log_odds():
    y = np.array([[1, 0], [1, 1], [1, 0]])
    assert constant_logits(y, 2, 2) == pytest.approx(np.log([[4 / 1, 2 / 3]] * 2))
