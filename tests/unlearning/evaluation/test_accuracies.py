"""Accuracies over all samples and over each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.evaluation.accuracies import accuracy, class_accuracies

quick = settings(deadline=None, max_examples=50, derandomize=True)


def test_accuracy_over_all_and_over_each_class():
    z = np.eye(4)[[0, 0, 1, 1, 1]]
    y = np.array([0, 0, 0, 1, 2])
    assert accuracy(z, y) == pytest.approx(3 / 5)
    np.testing.assert_array_equal(class_accuracies(z, y), [2 / 3, 1.0, 0.0, np.nan])


@quick
@given(st.permutations(range(6)), st.integers(0, 1000))
def test_accuracy_does_not_see_the_order_and_is_the_mean_of_the_classes(order, seed):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])
    assert accuracy(z[order], y[order]) == accuracy(z, y)
    assert accuracy(z, y) == pytest.approx(class_accuracies(z, y).mean())
