"""KLOM against histograms by numpy and known divergences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unlearning.evaluation.klom import klom, klom_null, summarise_klom

quick = settings(deadline=None, max_examples=60, derandomize=True)
margins = arrays(np.float64, (6, 3), elements=st.floats(-120, 120, width=32, allow_subnormal=False))
LN_CLAMP = math.log(1e5)


def usual(x):
    """The values of one side that are no outliers."""
    first, third = np.percentile(x, [25, 75])
    return x[(x >= first - 3 * (third - first)) & (x <= third + 3 * (third - first))]


def slow_twin(u, o):
    """KL(u || o) of one sample, from numpy's histograms."""
    u, o = np.clip(u, -100, 100), np.clip(o, -100, 100)
    low, high = min(usual(u).min(), usual(o).min()), max(usual(u).max(), usual(o).max())
    p, q = (np.histogram(np.clip(side, low, high), 20, (low, high))[0] / len(side) for side in (u, o))
    return sum(a * math.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


def test_like_numpys_histograms():
    rng = np.random.default_rng(0)
    u, o = rng.normal(1, 2, (50, 40)), rng.normal(0, 60, (70, 40))
    np.testing.assert_allclose(klom(u, o), [slow_twin(a, b) for a, b in zip(u.T, o.T, strict=True)], rtol=1e-12)


@quick
@given(margins)
def test_a_set_with_itself_is_zero(u):
    np.testing.assert_allclose(klom(u, u), 0, atol=1e-12)


def test_disjoint_histograms_give_the_clamp_less_the_entropy():
    zeros, ones = np.zeros((10, 1)), np.ones((10, 1))
    assert klom(zeros, ones)[0] == pytest.approx(LN_CLAMP)
    spread = np.array([[0.0], [0.1], [0.2], [0.3]])  # four of twenty bins over [0, 1]: entropy ln 4
    assert klom(spread, ones)[0] == pytest.approx(LN_CLAMP - math.log(4))


def test_known_histograms():
    """Unlearned: 3/4 in the first bin, 1/4 in the last; oracle 1/2 and 1/2. The largest value counts."""
    u, o = np.array([[0.0], [0.0], [0.0], [1.0]]), np.array([[0.0], [0.0], [1.0], [1.0]])
    assert klom(u, o)[0] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_margins_are_clipped():
    assert klom(np.full((3, 1), 150.0), np.full((3, 1), 1e6))[0] == 0
    assert klom(np.full((3, 1), -150.0), np.full((3, 1), 150.0))[0] == pytest.approx(LN_CLAMP)


@pytest.mark.parametrize(("models", "mean"), [(20, 3.0), (100, 0.35)])
def test_the_null_has_the_expected_size(models, mean):
    """About 3.0 at N = 20, .35 at N = 100."""
    assert klom_null(models, np.random.default_rng(0)).mean == pytest.approx(mean, rel=0.06)


def test_a_shift_stands_above_the_null():
    rng = np.random.default_rng(1)
    null, oracle = klom_null(100, rng), rng.normal(0, 1, (100, 300))
    means = [summarise_klom(klom(rng.normal(d, 1, (100, 300)), oracle)).mean for d in (0, 1, 3)]
    assert means[0] == pytest.approx(null.mean, abs=0.05)
    assert means[0] + 0.3 < means[1] < means[2] - 1


def test_one_diverged_model_of_a_hundred_changes_little():
    """Its margin would stretch the bins until all others shared one: KLOM fell to half."""
    rng = np.random.default_rng(2)
    far, oracle = rng.normal(3, 1, (100, 50)), rng.normal(0, 1, (100, 50))
    without = klom(far, oracle).mean()
    far[0] = -90
    assert klom(far, oracle).mean() == pytest.approx(without, rel=0.1)


@quick
@given(margins, margins, st.permutations(range(6)), st.sampled_from([0.25, 0.5]))
def test_bounds_order_and_scale(u, o, order, scale):
    found = klom(u, o)
    assert (found >= -2e-4).all()
    assert (found <= LN_CLAMP + 1e-9).all()
    np.testing.assert_array_equal(klom(u[order], o), found)
    inside = np.clip(u, -100, 100), np.clip(o, -100, 100)
    np.testing.assert_array_equal(klom(inside[0] * scale, inside[1] * scale), klom(*inside))  # exact: powers of two


def test_summary():
    found = summarise_klom(np.arange(101.0))
    assert (found.mean, found.median, found.p95) == (50, 50, 95)


def test_bad_ensembles():
    with pytest.raises(ValueError, match="same samples"):
        klom(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="2 models"):
        klom(np.zeros((1, 2)), np.zeros((4, 2)))
