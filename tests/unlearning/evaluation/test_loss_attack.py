"""All three attacks on one model: chance where nothing is to be found, closed forms where something is."""

import numpy as np
import pytest
from scipy.stats import norm

from unlearning.evaluation.logistic_attack import logistic_attack
from unlearning.evaluation.loss_attack import loss_auc_attack, loss_threshold_attack

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


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_generator_gives_the_same_attack(attack):
    a, b = rng(8).exponential(size=(2, 60))
    assert attack(a, b, rng(9), halvings=2) == attack(a, b, rng(9), halvings=2)
