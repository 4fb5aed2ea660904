"""Losses, margins and accuracies against slow twins and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unlearning.evaluation.accuracies import accuracy, class_accuracies, right_answers
from unlearning.evaluation.flags import collapsed
from unlearning.evaluation.scores import label_pairs, losses, margins, predictions

quick = settings(deadline=None, max_examples=50, derandomize=True)
logits_4x3 = arrays(np.float64, (4, 3), elements=st.floats(-30, 30))
LABELS = np.array([0, 1, 2, 1])


@quick
@given(logits_4x3)
def test_losses_are_torchs_cross_entropy(z):
    expected = F.cross_entropy(torch.from_numpy(z), torch.from_numpy(LABELS), reduction="none").numpy()
    np.testing.assert_allclose(losses(z, LABELS), expected, rtol=1e-9, atol=1e-12)


@quick
@given(logits_4x3)
def test_margin_is_the_log_odds_of_the_true_class(z):
    for row, label, margin in zip(z, LABELS, margins(z, LABELS), strict=True):
        others = sum(math.exp(v) for j, v in enumerate(row) if j != label)
        assert margin == pytest.approx(row[label] - math.log(others), abs=1e-9)


@quick
@given(logits_4x3, st.floats(-20, 20))
def test_a_shift_of_all_logits_changes_nothing(z, shift):
    np.testing.assert_allclose(losses(z + shift, LABELS), losses(z, LABELS), atol=1e-9)


def test_tiny_losses_stay_apart():
    """Of two classes at distance d the loss is log(1 + e^-d); at d = 40 and 41, log softmax would give 0 twice."""
    z = np.array([[40.0, 0.0], [41.0, 0.0]])
    np.testing.assert_allclose(losses(z, [0, 0]), np.exp([-40.0, -41.0]), rtol=1e-12)


def test_tensors_are_taken_as_they_are():
    z = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert accuracy(z, torch.tensor([0, 0])) == 0.5
    assert predictions(z).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("z", "y", "words"),
    [
        (np.zeros(3), [0, 0, 0], "shape"),
        (np.zeros((0, 3)), [], "n >= 1"),
        ([[0.0, np.nan], [0.0, 1.0]], [0, 0], "1 of 2"),
        (np.zeros((2, 2)), [0, 2], "0..1"),
        (np.zeros((2, 2)), [-1, 0], "-1"),
        (np.zeros((2, 2)), [0.0, 1.0], "integers"),
        (np.zeros((2, 2)), [0], "expected 2"),
    ],
)
def test_bad_arrays_are_named(z, y, words):
    with pytest.raises(ValueError, match=words):
        losses(z, y)


SEVERAL = np.random.default_rng(0).integers(0, 2, (6, 3))
SEVERAL_LOGITS = 6 * np.random.default_rng(1).normal(size=(6, 3))


def test_several_labels_have_the_mean_of_their_binary_losses():
    expected = F.binary_cross_entropy_with_logits(
        torch.from_numpy(SEVERAL_LOGITS), torch.from_numpy(SEVERAL).double(), reduction="none"
    ).mean(1)
    assert np.allclose(losses(SEVERAL_LOGITS, SEVERAL), expected, rtol=1e-12)
    assert np.allclose(np.logaddexp(0, -margins(SEVERAL_LOGITS, SEVERAL)), expected, rtol=1e-12)
    far = losses(1000.0 * (2 * SEVERAL - 1) - 2000.0 * (np.arange(3) == 0), SEVERAL)
    assert np.isfinite(far).all()


def test_several_labels_are_right_one_by_one():
    right = (SEVERAL_LOGITS > 0) == SEVERAL
    assert accuracy(SEVERAL_LOGITS, SEVERAL) == pytest.approx(right.mean())
    assert class_accuracies(SEVERAL_LOGITS, SEVERAL) == pytest.approx(right.mean(0))
    assert right_answers(SEVERAL_LOGITS, SEVERAL) == pytest.approx(right.mean(1))
    pairs = label_pairs(SEVERAL_LOGITS)
    assert accuracy(pairs, SEVERAL.reshape(-1)) == pytest.approx(right.mean())


def test_a_model_that_answers_all_alike_is_collapsed_by_its_answers():
    alike = np.tile([[3.0, -2.0, 1.0]], (20, 1)) + np.random.default_rng(2).uniform(-0.5, 0.5, (20, 3))
    assert collapsed(alike, several_labels=True).flag
    assert not collapsed(alike * np.where(np.arange(20) < 10, 1, -1)[:, None], several_labels=True).flag


@pytest.mark.parametrize("y", [np.array([[0, 2, 1]] * 6), SEVERAL[:, :2], SEVERAL[:4]])
def test_bad_labels_are_named(y):
    with pytest.raises(ValueError, match=r"expected \(6, 3\) of 0 and 1"):
        losses(SEVERAL_LOGITS, y)
