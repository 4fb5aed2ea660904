"""Noise floors of attacks, and rows of equal classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.evaluation.logistic_attack import logistic_attack
from unlearning.evaluation.loss_attack import loss_auc_attack
from unlearning.evaluation.noise_floor import match_classes, never_seen_halves

quick = settings(deadline=None, max_examples=25, derandomize=True)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_floor_is_the_attack_on_halves_of_the_unseen():
    unseen = rng(3).exponential(size=400)
    found = loss_auc_attack(np.zeros(400), unseen, rng(), halvings=200)
    assert found.floor.size == 200
    assert found.floor.mean == pytest.approx(0.5, abs=0.01)
    assert found.floor.sd == pytest.approx(np.sqrt(401 / (12 * 200 * 200)), rel=0.15)  # Mann-Whitney by permutation
    assert never_seen_halves(lambda a, b: 0.5, np.zeros(19), rng()) is None
    assert logistic_attack(unseen, unseen, rng(), halvings=3).floor.mean == pytest.approx(0.5, abs=0.08)


@quick
@given(st.lists(st.integers(0, 3), max_size=15), st.lists(st.integers(0, 3), max_size=15))
def test_matched_rows_have_equal_classes(forget, unseen):
    if not forget:
        return
    ours, theirs = match_classes(forget, unseen, rng())
    assert np.array_equal(np.array(forget)[ours], np.array(unseen, dtype=int)[theirs])
    assert len(set(ours)) == len(ours) == sum(min(forget.count(c), unseen.count(c)) for c in range(4))


def test_matching_takes_away_the_difference_of_classes():
    """Losses depend on the class alone; unmatched, a client of one class looks like a member."""
    unseen_labels = np.repeat([0, 1], 500)
    draw = rng(7)
    forget, unseen = draw.normal(0, 1, 200), draw.normal(2.0 * unseen_labels, 1)
    ours, theirs = match_classes(np.zeros(200, int), unseen_labels, rng())
    assert loss_auc_attack(forget, unseen, rng()).value > 0.65
    matched = loss_auc_attack(forget[ours], unseen[theirs], rng())
    assert abs(matched.value - 0.5) < 3 * matched.standard_error
