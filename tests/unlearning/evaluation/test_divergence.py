"""Distances of outputs: closed forms, bounds, and the sum over classes that public code gets wrong."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unlearning.evaluation.divergence import activation_distance, js_divergence, js_divergences

quick = settings(deadline=None, max_examples=60, derandomize=True)
logits = arrays(np.float64, (4, 3), elements=st.floats(-40, 40))


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@quick
@given(logits, logits)
def test_js_is_the_sum_over_classes(z, w):
    p, q = softmax(z), softmax(w)
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(a > 0, a * np.log(a / m), 0).sum(1) for a in (p, q)]
    np.testing.assert_allclose(js_divergences(z, w), (terms[0] + terms[1]) / 2, atol=1e-12)


@quick
@given(logits, logits)
def test_bounds_symmetry_and_zero(z, w):
    js = js_divergences(z, w)
    assert ((js >= 0) & (js <= math.log(2))).all()
    np.testing.assert_allclose(js, js_divergences(w, z), atol=1e-12)
    np.testing.assert_allclose(js_divergences(z, z + 3), 0, atol=1e-12)
    assert 0 <= activation_distance(z, w, "l2") <= math.sqrt(2) + 1e-12
    assert activation_distance(z, w, "l2") <= activation_distance(z, w, "l1") + 1e-12 <= 2 + 2e-12
    assert activation_distance(z, w) == activation_distance(w, z)


@quick
@given(logits, logits, st.permutations(range(4)))
def test_order_of_samples(z, w, order):
    assert js_divergence(z[order], w[order]) == pytest.approx(js_divergence(z, w))


def test_opposite_predictions_are_as_far_as_can_be():
    z, w = np.array([[800.0, 0.0, 0.0]]), np.array([[0.0, 800.0, 0.0]])
    assert js_divergence(z, w) == pytest.approx(math.log(2))
    assert activation_distance(z, w, "l2") == pytest.approx(math.sqrt(2))
    assert activation_distance(z, w, "l1") == pytest.approx(2)


def test_a_known_pair():
    """p = (1/2, 1/2), q = (3/4, 1/4): ||p - q||_2 = sqrt(2) / 4, ||p - q||_1 = 1/2; m = (5/8, 3/8)."""
    z, w = np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]])
    kl_p = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    kl_q = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    assert js_divergence(z, w) == pytest.approx((kl_p + kl_q) / 2)
    assert activation_distance(z, w, "l2") == pytest.approx(math.sqrt(2) / 4)
    assert activation_distance(z, w, "l1") == pytest.approx(0.5)


def test_other_samples_are_refused():
    with pytest.raises(ValueError, match="same samples"):
        js_divergence(np.zeros((2, 3)), np.zeros((3, 3)))
