"""The challenge's score against loops over all rules."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.evaluation.epsilon_score import epsilon_points, forgetting_quality, sample_epsilon

quick = settings(deadline=None, max_examples=40, derandomize=True)
sides = st.lists(st.floats(-6, 6, width=32), min_size=6, max_size=6, unique=True).map(np.array)


def slow_twin(u, r):
    """Epsilon over every rule, one at a time."""
    small, large = sorted([np.ptp(u), np.ptp(r)])
    if small / large < 0.01:
        return 50.0
    points = np.concatenate([u, r])
    pos, neg = (u, r) if np.median(u) >= np.median(r) else (r, u)
    rules = [(np.mean(neg >= t), np.mean(pos < t)) for t in points]
    peaked, wide = (u, r) if np.ptp(u) < np.ptp(r) else (r, u)
    for a in points:
        for b in points:
            if b >= a and abs(b - a - small) <= 2:
                rules.append((np.mean((wide >= a) & (wide <= b)), 1 - np.mean((peaked >= a) & (peaked <= b))))
    found = [0.0]
    for fpr, fnr in rules:
        if fpr == fnr == 0:
            found.append(50.0)
        elif fpr > 0 and fnr > 0:
            found += [math.log(x) for x in ((1 - 1e-5 - fpr) / fnr, (1 - 1e-5 - fnr) / fpr) if x > 0]
    return min(max(found), 50.0)


@quick
@given(sides, sides)
def test_like_a_loop_over_all_rules(u, r):
    assert sample_epsilon(u, r) == pytest.approx(slow_twin(u, r), abs=1e-9)


def test_extremes():
    assert sample_epsilon(np.array([0.0, 1, 2]), np.array([5.0, 6, 7])) == 50
    assert sample_epsilon(np.zeros(3), np.zeros(3)) == 0
    assert sample_epsilon(np.zeros(3), np.ones(3)) == 50
    assert sample_epsilon(np.array([0.0, 1e-3, 2e-3]), np.array([-1.0, 0, 1])) == 50


def test_points_halve_every_half_unit():
    """ceil(ln 63) = 5: nothing from 5 on."""
    np.testing.assert_allclose(epsilon_points([0, 0.49, 0.5, 1.2, 4.99, 5, 50], 64), [1, 1, 0.5, 0.25, 2**-9, 0, 0])


def test_alike_models_beat_shifted_ones():
    """F(null) > 2 F(1 sigma) > F(3 sigma), disjoint sets 0; F(null) about .18 at N = 64."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(64, 200))
    null, one, three = (forgetting_quality(base, rng.normal(d, 1, (64, 200))) for d in (0, 1, 3))
    assert null == pytest.approx(0.18, abs=0.03)
    assert null > 2 * one > three
    assert forgetting_quality(base, base + 100) == 0


@quick
@given(st.integers(0, 999), st.permutations(range(8)))
def test_symmetry_order_and_bounds(seed, order):
    rng = np.random.default_rng(seed)
    u, r = rng.normal(0, 1, (8, 5)), rng.normal(0.5, 2, (8, 5))
    found = forgetting_quality(u, r)
    assert 0 <= found <= 1
    assert forgetting_quality(r, u) == found
    assert forgetting_quality(u[order], r) == found


def test_unequal_models():
    with pytest.raises(ValueError, match="4 models per side"):
        forgetting_quality(np.zeros((5, 2)), np.zeros((4, 2)))
