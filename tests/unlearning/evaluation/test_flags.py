"""Flags that must go up, and must not, on known losses and predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from unlearning.evaluation.flags import collapsed, over_forgotten


def test_loss_above_never_seen_data():
    rng = np.random.default_rng(0)
    unseen = rng.exponential(size=300)
    found = over_forgotten(rng.exponential(size=300) + 1, unseen)
    assert found.flag
    assert found.excess == pytest.approx(1, abs=0.3)
    assert found.standard_error == pytest.approx(np.sqrt(2 / 300), rel=0.2)  # Exp(1) has variance 1
    assert not over_forgotten(rng.exponential(size=300) * 0.1, unseen).flag


def test_an_oracle_is_seldom_flagged():
    """Alike losses: one-sided at two standard errors, P = Phi(-2) = .023; without them every second one."""
    rng = np.random.default_rng(1)
    pairs = rng.normal(size=(2000, 2, 50))
    assert np.mean([over_forgotten(*p).flag for p in pairs]) == pytest.approx(norm.sf(2), abs=0.015)
    assert np.mean([over_forgotten(*p, num_errors=0).flag for p in pairs]) == pytest.approx(0.5, abs=0.04)


def test_ascent_beyond_twice_the_uniform_loss_is_flagged():
    """Forget loss over 2 ln C."""
    unseen = np.random.default_rng(2).exponential(size=200)
    assert over_forgotten(np.full(100, 2 * np.log(10) + 0.1), unseen).flag
    assert not over_forgotten([1.0], [1.0]).flag


@pytest.mark.parametrize(("share", "flag"), [(89, False), (90, False), (91, True), (100, True)])
def test_more_than_nine_tenths_of_one_class(share, flag):
    z = np.eye(3)[np.repeat([2, 0], [share, 100 - share])]
    found = collapsed(z)
    assert (found.flag, found.label) == (flag, 2)
    assert found.share == share / 100


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.permutations(range(4)))
def test_collapse_does_not_depend_on_which_class(labels, names):
    z = np.eye(4)[labels]
    assert collapsed(z).share == collapsed(z[:, names]).share
    assert 1 / 4 <= collapsed(z).share <= 1


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_few_losses_are_never_flagged_and_have_a_standard_error(size):
    worse = over_forgotten(np.full(size, 9.0) + np.arange(size) * 1e-9, np.arange(50) / 100)
    assert not worse.flag
    assert worse.standard_error > 0
    assert over_forgotten(np.full(10, 9.0), np.arange(50) / 100).flag
