"""The verdict: plain cases, and how often it errs on models that are alike."""

import numpy as np
import pytest

from unlearning.evaluation.u_lira import u_lira
from unlearning.evaluation.verdict import MIN_DISTRIBUTION, Evidence, OfDistribution, Verdict, compare, judge

ORACLE, ORIGINAL = [0.50, 0.52, 0.48], [0.90, 0.91, 0.92]
FINE = {"accuracy on test samples": Evidence([0.9, 0.91, 0.92], [0.91, 0.9, 0.92], [0.9, 0.9, 0.9], 0.02)}


def on(model: list[float], original: list[float] = ORIGINAL, uses: dict[str, Evidence] = FINE) -> Verdict:
    return judge({"loss": Evidence(model, ORACLE, original, 0.02)}, uses)


def test_the_four_verdicts() -> None:
    assert on([0.51, 0.49, 0.50]).label == "forgotten"
    assert on(ORIGINAL).label == "not forgotten"
    assert on(ORIGINAL).why == "still told from retraining by loss"
    assert on(ORIGINAL, original=[0.51, 0.53, 0.49]).label == "cannot be told here"
    worse = {"accuracy on test samples": Evidence([0.4, 0.9, 0.4], [0.91, 0.9, 0.92], [0.9, 0.9, 0.9], 0.02)}
    assert on([0.5, 0.5, 0.5], uses=worse).label == "damaged"


def test_a_method_does_not_win_by_varying() -> None:
    """Three wild seeds have a wide interval of their own; the oracles' spread is what counts."""
    assert on([0.1, 0.9, 0.5]).label == "not forgotten"


def test_one_seed_that_remembers_is_enough() -> None:
    assert on([0.50, 0.51, 0.80]).label == "not forgotten"


def test_the_other_way_is_told_apart_too() -> None:
    found = on([0.1, 0.1, 0.12])
    assert found.label == "not forgotten"
    assert "over-forgotten" in found.why


def test_a_tenth_of_a_point_is_no_damage() -> None:
    exact = {"accuracy on test samples": Evidence([0.995] * 3, [1.0] * 3, [1.0] * 3, 1e-6)}
    assert on([0.5, 0.5, 0.5], uses=exact).label == "forgotten"


def told(model: float, original: float = 0.3) -> Verdict:
    """No attack on single models finds anything; one on distributions, of 32 models, may."""
    single = Evidence(ORACLE, ORACLE, ORACLE, 0.02)
    return judge({"loss": single, "U-LiRA": OfDistribution(model, 0.02, original, 0.02, 32)}, FINE)


def test_what_many_models_tell_counts() -> None:
    assert told(0.01).label == "forgotten"
    assert told(0.3).label == "not forgotten"
    assert told(0.3).why == "still told from retraining by U-LiRA"
    assert "over-forgotten" in told(-0.3).why
    assert told(0.3, original=0.02).label == "cannot be told here"


@pytest.mark.parametrize("models", [MIN_DISTRIBUTION, 32])
def test_distributions_of_models_that_are_alike_are_seldom_told_apart(models: int) -> None:
    """Samples are correlated: all margins of a model move together."""
    rng = np.random.default_rng(0)

    def margins(shift: float = 0.0) -> np.ndarray:
        return rng.normal(size=(models, 40)) + rng.normal(size=(models, 1)) + shift

    def found(shift: float) -> bool:
        attack = u_lira(margins(shift), margins(), rng, halvings=8).attack
        excess, error = max(attack.value - 0.5, 0.0), attack.standard_error
        return OfDistribution(excess, error, excess, error, models).of_model(0.05).found

    assert np.mean([found(0.0) for _ in range(30)]) <= 0.1
    assert all(found(4.0) for _ in range(5))


@pytest.mark.parametrize("prior", [0.5, 1.0, 2.0])
def test_models_that_are_alike_are_seldom_told_apart(prior: float) -> None:
    """The prior may miss the spread over seeds by a factor of two, and errors stay near the level of 5 %."""
    rng = np.random.default_rng(0)
    draws = [compare(*rng.normal(size=(2, 3)), prior, 0.05).found for _ in range(3_000)]  # type: ignore[call-arg]
    assert np.mean(draws) < 0.12
