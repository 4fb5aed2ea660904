"""Ranking statistics on samples whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from unlearning.evaluation.roc import (
    auc,
    auc_null_sd,
    best_balanced_accuracy,
    best_balanced_accuracy_null,
    rates,
)

quick = settings(deadline=None, max_examples=80, derandomize=True)
scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


@quick
@given(scores, scores)
def test_auc_counts_pairs(pos, neg):
    wins = [(p > n) + 0.5 * (p == n) for p in pos for n in neg]
    assert auc(pos, neg) == pytest.approx(np.mean(wins))
    assert auc(pos, neg) + auc(neg, pos) == pytest.approx(1)


@quick
@given(scores, scores)
def test_balanced_accuracy_tries_every_threshold(pos, neg):
    tried = [(np.mean(np.array(pos) >= t) + np.mean(np.array(neg) < t)) / 2 for t in np.arange(-5, 6)]
    assert best_balanced_accuracy(pos, neg) == pytest.approx(max(tried))


@quick
@given(scores, scores, st.randoms(use_true_random=False))
def test_order_does_not_matter(pos, neg, random):
    shuffled = random.sample(pos, len(pos))
    assert auc(shuffled, neg) == auc(pos, neg)
    assert best_balanced_accuracy(shuffled, neg) == best_balanced_accuracy(pos, neg)


@quick
@given(scores, scores)
def test_rates_rise_from_nothing_to_everything(pos, neg):
    for rate in rates(pos, neg):
        assert rate[0] == 0
        assert rate[-1] == 1
        assert (np.diff(rate) >= 0).all()


@pytest.mark.parametrize("delta", [-1.0, 0.0, 0.5, 2.0])
def test_shifted_gaussians_give_the_closed_forms(delta):
    """AUC Phi(d / sqrt 2), best balanced accuracy Phi(d / 2) or chance."""
    rng = np.random.default_rng(1)
    pos, neg = rng.normal(delta, 1, 20000), rng.normal(0, 1, 20000)
    assert auc(pos, neg) == pytest.approx(norm.cdf(delta / np.sqrt(2)), abs=0.01)
    assert best_balanced_accuracy(pos, neg) == pytest.approx(max(0.5, norm.cdf(delta / 2)), abs=0.012)


def test_separate_samples():
    assert auc([2, 3], [0, 1]) == 1
    assert best_balanced_accuracy([2, 3], [0, 1]) == 1
    assert best_balanced_accuracy([0, 1], [2, 3]) == 0.5


def test_null_spreads_are_those_of_equal_distributions():
    rng = np.random.default_rng(2)
    n, m = 120, 200
    drawn = [(rng.normal(size=n), rng.normal(size=m)) for _ in range(1500)]
    aucs = [auc(*pair) for pair in drawn]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.003)
    assert np.std(aucs) == pytest.approx(auc_null_sd(n, m), rel=0.06)
    best = [best_balanced_accuracy(*pair) for pair in drawn]
    mean, sd = best_balanced_accuracy_null(n, m)
    assert np.mean(best) == pytest.approx(mean, abs=0.006)  # finite samples lie slightly below the limit
    assert np.std(best) == pytest.approx(sd, rel=0.08)


@pytest.mark.parametrize("bad", [[], [np.nan], [[1.0]]])
def test_bad_scores_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        auc(bad, [1.0])


@pytest.mark.parametrize(("size", "mean"), [(1, 0.75), (2, 0.7083), (5, 0.653), (10, 0.615)])
def test_the_null_of_small_samples_is_no_limit(size, mean):
    # By hand: of one a side the positive is above with chance 1/2 (1, else 1/2); of two, over the six orders.
    assert best_balanced_accuracy_null(size, size)[0] == pytest.approx(mean, abs=0.005)


def test_the_null_has_no_step_where_the_limit_takes_over():
    drawn, limit = best_balanced_accuracy_null(99, 99), best_balanced_accuracy_null(101, 101)
    assert drawn == pytest.approx(limit, abs=0.004)
