"""The attack by logistic regression: extremes, symmetries, and a solution that is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.evaluation.logistic_attack import fit, logistic_accuracy

quick = settings(deadline=None, max_examples=25, derandomize=True)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_logistic_extremes():
    assert logistic_accuracy(np.zeros(1500), np.ones(1500), rng()) == 1
    assert logistic_accuracy(np.zeros(50), np.zeros(50), rng()) == 0.5
    assert logistic_accuracy(np.full(20, 1e4), np.zeros(20), rng()) == 1


def test_logistic_solution_is_stationary():
    """Gradient of w^2/2 + sum log(1 + exp(-y (w l + b))), y = +-1 (below 1e-6)."""
    draw = rng(4)
    x, members = draw.exponential(size=300), np.repeat([1.0, 0.0], 150)
    w, b = fit(x, members)
    residual = members - 1 / (1 + np.exp(-(w * x + b)))
    assert abs(w - residual @ x) < 1e-6
    assert abs(residual.sum()) < 1e-6


def test_where_newtons_steps_fail_the_solution_is_one_all_the_same():
    """Its matrix is singular here, of which a user need not hear: another solver goes on."""
    draw, members = rng(3), np.repeat([1.0, 0.0], 20)
    values = np.exp(6 * draw.normal(size=40) - 4)
    values -= values.mean()
    w, b = fit(values, members)
    residual = members - 1 / (1 + np.exp(-(w * values + b)))
    assert abs(residual.sum()) < 1e-3
    assert abs(w - residual @ values) < 1e-3 * np.abs(values).max()


@pytest.mark.parametrize("members", [np.repeat([1.0, 0.0], 97), np.repeat([1.0, 0.0], (40, 60))])
def test_equal_means_are_solved_without_a_step(members):
    """Newton's line search has nothing to find there, and warns of it."""
    values = rng(6).normal(size=len(members))
    for side in (0, 1):
        values[members == side] -= values[members == side].mean()
    assert fit(values, members) == (0.0, pytest.approx(np.log(members.mean() / (1 - members.mean()))))


@quick
@given(st.integers(0, 999), st.floats(-50, 50))
def test_logistic_symmetries(seed, shift):
    draw = rng(seed)
    forget, unseen = draw.exponential(size=30), draw.exponential(1.5, size=30)
    value = logistic_accuracy(forget, unseen, rng(), splits=3)
    assert 0 <= value <= 1
    assert logistic_accuracy(unseen, forget, rng(), splits=3) == pytest.approx(value, abs=1e-12)
    assert logistic_accuracy(forget + shift, unseen + shift, rng(), splits=3) == pytest.approx(value, abs=1e-6)


def test_unequal_sides_keep_chance_at_a_half():
    draw = rng(5)
    values = [logistic_accuracy(draw.exponential(size=40), draw.exponential(size=400), draw) for _ in range(20)]
    assert np.mean(values) == pytest.approx(0.5, abs=3 * 0.54 / np.sqrt(40 * 20))
    with pytest.raises(ValueError, match="10 samples per side; got 9 and 400"):
        logistic_accuracy(np.zeros(9), np.zeros(400), rng())


def test_the_standard_deviation_at_240_samples():
    """Standard deviation .032 at n = 240 per side."""
    draw = rng(6)
    values = [logistic_accuracy(draw.exponential(size=240), draw.exponential(size=240), draw) for _ in range(25)]
    assert np.std(values) == pytest.approx(0.032, rel=0.4)  # an sd of 25 values is known to 14 %
