"""U-LiRA on Gaussian margins, whose best accuracy is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from unlearning.evaluation.roc import auc
from unlearning.evaluation.u_lira import likelihood_ratio, u_lira

quick = settings(deadline=None, max_examples=25, derandomize=True)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_gap_of_two_sigma():
    """Accuracy Phi(1) = .841, AUC Phi(sqrt 2) = .921 (within .02)."""
    draw = rng(0)
    shift = draw.normal(0, 5, 100)  # every sample has its own level, which one global threshold would not find
    found = u_lira(draw.normal(shift + 2, 1, (64, 100)), draw.normal(shift, 1, (64, 100)), rng())
    assert found.attack.value == pytest.approx(norm.cdf(1), abs=0.02)
    assert found.auc == pytest.approx(norm.cdf(np.sqrt(2)), abs=0.02)
    assert found.attack.sign == -1


def test_equal_distributions_give_a_half_without_bias():
    draw = rng(1)
    values, z, aucs = [], [], []
    for _ in range(40):
        found = u_lira(draw.normal(size=(10, 40)), draw.normal(size=(10, 40)), draw, halvings=0)
        values.append(found.attack.value)
        aucs.append(found.auc)
        z.append((found.attack.value - 0.5) / found.attack.standard_error)
    assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / np.sqrt(40))
    assert np.mean(aucs) == pytest.approx(0.5, abs=3 * np.std(aucs) / np.sqrt(40))
    assert np.std(z) < 2


def test_equal_means_and_unequal_spreads_are_told_apart():
    """Best accuracy for N(0, 1) against N(0, 3^2): inside +-c the narrow one, c^2 = 2 ln 3 / (1 - 1/9)."""
    draw = rng(2)
    found = u_lira(draw.normal(0, 1, (200, 50)), draw.normal(0, 3, (200, 50)), rng())
    c = np.sqrt(2 * np.log(3) / (1 - 1 / 9))
    best = (2 * norm.cdf(c) - 1 + 2 * norm.sf(c / 3)) / 2
    assert found.attack.value == pytest.approx(best, abs=0.02)


def test_constants_make_no_nan():
    same = u_lira(np.zeros((6, 3)), np.zeros((6, 3)), rng())
    assert same.attack.value == same.auc == 0.5
    apart = u_lira(np.ones((6, 3)), np.zeros((6, 3)), rng())
    assert apart.attack.value == apart.auc == 1


def test_likelihood_ratio_is_that_of_two_normals():
    draw = rng(3)
    phi, members, others = draw.normal(size=(2, 4)), draw.normal(2, 1, (30, 4)), draw.normal(0, 2, (30, 4))
    expected = norm.logpdf(phi, members.mean(0), members.std(0, ddof=1)) - norm.logpdf(
        phi, others.mean(0), others.std(0, ddof=1)
    )
    np.testing.assert_allclose(likelihood_ratio(phi, members, others), expected, atol=1e-12)


def test_shared_variance_keeps_the_sides_apart():
    """The reference code takes the out side's deviation from the in data."""
    draw = rng(4)
    members, others = draw.normal(0, 1, (50, 20)), draw.normal(0, 5, (50, 20))
    sd = [np.sqrt(side.var(0, ddof=1).mean()) for side in (members, others)]
    expected = norm.logpdf(0.3, members.mean(0), sd[0]) - norm.logpdf(0.3, others.mean(0), sd[1])
    found = likelihood_ratio(np.full((1, 20), 0.3), members, others, shared_variance=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_lira_on_one_model():
    """Members' margins 2 sigma above: AUC of the online score Phi(sqrt 2)."""
    draw = rng(5)
    inside, outside = draw.normal(2, 1, (64, 4000)), draw.normal(0, 1, (64, 4000))
    target = np.concatenate([draw.normal(2, 1, 2000), draw.normal(0, 1, 2000)])
    score = likelihood_ratio(target, inside, outside)
    assert auc(score[:2000], score[2000:]) == pytest.approx(norm.cdf(np.sqrt(2)), abs=0.02)


def test_the_floor_halves_the_never_seen_models():
    draw = rng(6)
    found = u_lira(draw.normal(9, 1, (20, 30)), draw.normal(0, 1, (20, 30)), rng())
    assert found.attack.floor.size == 10
    assert found.attack.floor.mean == pytest.approx(0.5, abs=0.06)
    assert u_lira(np.zeros((7, 2)), np.zeros((7, 2)), rng()).attack.floor is None


@quick
@given(st.integers(0, 999), st.integers(4, 9), st.permutations(range(5)))
def test_bounds_and_order_of_samples(seed, models, order):
    draw = rng(seed)
    u, v = draw.normal(0.5, 1, (models, 5)), draw.normal(0, 2, (models, 5))
    found = u_lira(u, v, rng(), halvings=0)
    permuted = u_lira(u[:, order], v[:, order], rng(), halvings=0)
    assert 0 <= found.attack.value <= 1
    assert permuted.attack.value == pytest.approx(found.attack.value)
    assert u_lira(v, u, rng(), halvings=0).attack.value == pytest.approx(found.attack.value)


@pytest.mark.parametrize(("u", "v"), [((3, 2), (3, 2)), ((4, 2), (5, 2)), ((4, 2), (4, 3))])
def test_too_few_or_unequal_models(u, v):
    with pytest.raises(ValueError, match="4 pairs of models"):
        u_lira(np.zeros(u), np.zeros(v), rng())
    with pytest.raises(ValueError, match="finite margins"):
        u_lira(np.full((4, 2), np.nan), np.zeros((4, 2)), rng())
