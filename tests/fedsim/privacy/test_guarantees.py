"""Guarantees that follow from a ledger."""

import math

import pytest
import yaml

from fedsim.privacy.accountant import Gaussian, epsilon, gaussian_epsilon, rdp_epsilon
from fedsim.privacy.guarantees import composed, guarantees
from fedsim.privacy.ledger import Ledger, Release, Spent, unprotected
from fedsim.privacy.show import format_epsilon
from tests.fedsim.privacy.small_runs import LABELS, book, by_key, run, steps


def test_a_ledger_with_next_to_no_noise_says_infinity():
    for noise in (0.0, 1e-320, 1e-200, 1e-5):
        for rate in (1.0, 0.5):
            release = Release(
                what="steps", covers=("model",), mechanism="gaussian", unit="example", noise=noise, delta=1e-5,
                sampling_rate=rate,
            )  # fmt: skip
            rows = guarantees(Ledger(releases=(release,), rounds=1, took_part=[1]))
            assert [row.epsilon for row in rows] == [math.inf] * 2


STEPS = Release(
    what="gradients", covers=("model",), mechanism="gaussian", unit="example", noise=8.0, delta=1e-5,
    sampling_rate=0.25, times=4,
)  # fmt: skip


def test_the_client_that_took_part_more_often_sets_epsilon_and_gradients_cost_every_round():
    seen = []
    for rounds in (1, 3):
        added, replaced = guarantees(book(STEPS, rounds=2 * rounds, took_part=[rounds, 2 * rounds]))
        assert added.client == replaced.client == 1
        assert added.epsilon == epsilon([Gaussian(8.0, 0.25, 8 * rounds)], 1e-5).epsilon
        assert replaced.epsilon > added.epsilon
        seen.append(added.epsilon)
    assert seen[0] < seen[1]


def test_noise_that_is_drawn_once_costs_once_and_units_are_kept_apart():
    for rounds in (1, 5):
        rows = guarantees(book(LABELS, STEPS, rounds=rounds, took_part=[rounds, 0]))
        assert [(row.unit, row.adjacency) for row in rows] == [
            ("response", "replaced"), ("example", "added or removed"), ("example", "replaced"),
        ]  # fmt: skip
        assert (rows[0].epsilon, rows[0].delta) == (2.0, 0.0)


def test_mechanisms_together_never_cost_less_than_what_is_exact():
    laplace = Spent(mechanism="laplace", noise=2.0, sampling_rate=1.0, count=3)
    gaussian = Spent(mechanism="gaussian", noise=3.0, sampling_rate=1.0, count=2)
    assert composed([laplace], 1e-5)[0] == 1.5
    exact = gaussian_epsilon(math.sqrt(2) / 3, 1e-5)
    assert composed([gaussian], 1e-5)[0] == exact
    assert composed([laplace, gaussian], 1e-5)[0] == 1.5 + exact
    sampled = gaussian.model_copy(update={"sampling_rate": 0.5})
    both = composed([gaussian, sampled], 1e-5)[0]
    assert exact < both <= rdp_epsilon([Gaussian(3.0, 1.0, 2), Gaussian(3.0, 0.5, 2)], 1e-5)
    assert composed([gaussian, gaussian], 1e-5)[0] == pytest.approx(gaussian_epsilon(2 / 3, 1e-5))


def test_no_noise_is_an_infinite_epsilon_and_no_round_costs_nothing():
    silent = STEPS.model_copy(update={"noise": 0.0})
    assert [row.epsilon for row in guarantees(book(silent, rounds=1, took_part=[1]))] == [math.inf] * 2
    assert [row.epsilon for row in guarantees(book(silent, rounds=0, took_part=[0]))] == [0.0] * 2
    assert format_epsilon(math.inf) == "infinity"
    assert format_epsilon(1.0001) == "1.001"  # never rounded down


@pytest.mark.usefixtures("no_pictures")
def test_a_target_is_turned_into_noise_that_keeps_to_it(tmp_path):
    targets = {
        "client": {"target_epsilon": 2.0, "delta": 1e-3, "sampling": "fixed"},
        "example": {"target_epsilon": 4.0, "delta": 1e-4},
    }
    folder = run(tmp_path, targets, **{"cohort": 3, "rounds": 2, "training.batch_size": 99})
    resolved = yaml.safe_load((folder / "config.yaml").read_text())["privacy"]
    assert all(resolved[level]["noise_multiplier"] > 0 for level in targets)
    assert all(resolved[level]["target_epsilon"] is None for level in targets)
    rows = by_key(guarantees(Ledger.read(folder)))
    # In cohorts of one size another client takes the place of one that leaves, and noise is found for that.
    assert 1.99 < rows["client", "replaced", "readers"] <= 2.0
    assert 0 < rows["client", "zeroed out", "readers"] < 2.0
    assert rows["example", "added or removed", "server"] == pytest.approx(4.0, rel=1e-6)


def test_each_quantity_is_the_largest_of_any_client():
    """Client 0 has the larger epsilon for one added or removed, client 1 for one replaced."""
    release = steps(sampling_rate=(1.0, 0.02), times=(1, 1050), noise=1.0)
    (added, replaced), (added_1, replaced_1) = (
        guarantees(Ledger(releases=(release,), rounds=1, took_part=took)) for took in ([1, 0], [0, 1])
    )
    assert added.epsilon > added_1.epsilon
    assert replaced.epsilon < replaced_1.epsilon
    both = guarantees(Ledger(releases=(release,), rounds=1, took_part=[1, 1]))
    assert [row.epsilon for row in both] == [added.epsilon, replaced_1.epsilon]
    assert [row.client for row in both] == [0, 1]


def test_training_on_raw_samples_ends_what_was_promised():
    run = Ledger(releases=(steps(),), rounds=4, took_part=[4, 2])
    derived = run.then(unprotected("unlearning by finetune", 2))
    assert [row.epsilon for row in guarantees(derived)] == [math.inf, math.inf]
    assert [row.epsilon for row in guarantees(derived.then(run))] == [math.inf, math.inf]  # noise does not correct it
    plain = Ledger(releases=(Release(what="models", covers=("model",)),), rounds=1, took_part=[1, 1])
    assert guarantees(plain.then(unprotected("unlearning by finetune", 2))) == []
