"""The three attacks on one model: chance where nothing is to be found, closed forms where something is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from unlearning.evaluation.logistic_attack import fit, logistic_accuracy, logistic_attack
from unlearning.evaluation.loss_attack import loss_auc_attack, loss_threshold_attack
from unlearning.evaluation.noise_floor import match_classes, never_seen_halves

quick = settings(deadline=None, max_examples=25, derandomize=True)
ATTACKS = [loss_auc_attack, loss_threshold_attack, logistic_attack]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("attack", ATTACKS)
def test_equal_distributions_give_chance_within_the_noise_floor(attack):
    z = []
    for seed in range(20):
        draw = rng(seed)
        found = attack(draw.exponential(size=300), draw.exponential(size=300), rng(seed), halvings=0)
        z.append((found.value - found.chance) / found.standard_error)
    assert abs(np.mean(z)) < 3 / np.sqrt(20)
    assert np.max(np.abs(z)) < 3.7  # P < 0.005 over 20 draws
    assert 0.6 < np.std(z) < 1.5


def test_members_of_a_known_shift():
    """Losses N(0, 1) for the forget set and N(d, 1) unseen: AUC Phi(d / sqrt 2), a linear rule Phi(d / 2)."""
    d, draw = 1.0, rng(1)
    forget, unseen = draw.normal(0, 1, 4000), draw.normal(d, 1, 4000)
    found = [attack(forget, unseen, rng(), halvings=0) for attack in ATTACKS]
    assert found[0].value == pytest.approx(norm.cdf(d / np.sqrt(2)), abs=0.015)
    assert found[1].value == pytest.approx(norm.cdf(d / 2), abs=0.015)
    assert found[2].value == pytest.approx(norm.cdf(d / 2), abs=0.02)
    assert [f.sign for f in found] == [-1, -1, -1]


def test_over_forgetting_shows_in_the_sign():
    draw = rng(2)
    forget, unseen = draw.normal(5, 1, 200), draw.normal(0, 1, 200)
    by_auc, by_threshold, by_logistic = (attack(forget, unseen, rng(), halvings=0) for attack in ATTACKS)
    assert by_auc.value < 0.01
    assert by_threshold.value == 0.5
    assert by_logistic.value > 0.95
    assert {by_auc.sign, by_threshold.sign, by_logistic.sign} == {1}


def test_the_floor_is_the_attack_on_halves_of_the_unseen():
    unseen = rng(3).exponential(size=400)
    found = loss_auc_attack(np.zeros(400), unseen, rng(), halvings=200)
    assert found.floor.size == 200
    assert found.floor.mean == pytest.approx(0.5, abs=0.01)
    assert found.floor.sd == pytest.approx(np.sqrt(401 / (12 * 200 * 200)), rel=0.15)  # Mann-Whitney by permutation
    assert never_seen_halves(lambda a, b: 0.5, np.zeros(19), rng()) is None
    assert logistic_attack(unseen, unseen, rng(), halvings=3).floor.mean == pytest.approx(0.5, abs=0.08)


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


def test_the_card_s_noise_at_240_samples():
    """Standard deviation .032 at n = 240 per side."""
    draw = rng(6)
    values = [logistic_accuracy(draw.exponential(size=240), draw.exponential(size=240), draw) for _ in range(25)]
    assert np.std(values) == pytest.approx(0.032, rel=0.4)  # an sd of 25 values is known to 14 %


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


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_generator_gives_the_same_attack(attack):
    a, b = rng(8).exponential(size=(2, 60))
    assert attack(a, b, rng(9), halvings=2) == attack(a, b, rng(9), halvings=2)
