"""The verdict: plain cases, and how often it errs on models that are alike."""

import numpy as np
import pytest

from unlearning.evaluation.verdict import Evidence, Verdict, compare, judge

ORACLE, ORIGINAL = [0.50, 0.52, 0.48], [0.90, 0.91, 0.92]
FINE = {"accuracy on test samples": Evidence([0.9, 0.91, 0.92], [0.91, 0.9, 0.92], [0.9, 0.9, 0.9], 0.02)}


def on(model: list[float], original: list[float] = ORIGINAL, uses: dict[str, Evidence] = FINE) -> Verdict:
    return judge({"loss": Evidence(model, ORACLE, original, 0.02)}, uses)


def test_the_four_verdicts() -> None:
    assert on([0.51, 0.49, 0.50]).label == "forgotten"
    assert on(ORIGINAL).label == "not forgotten"
    assert on(ORIGINAL).told_by == ("loss",)
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


@pytest.mark.parametrize("prior", [0.5, 1.0, 2.0])
def test_models_that_are_alike_are_seldom_told_apart(prior: float) -> None:
    """The prior may miss the spread over seeds by a factor of two, and errors stay near the level of 5 %."""
    rng = np.random.default_rng(0)
    draws = [compare(*rng.normal(size=(2, 3)), prior, 0.05).found for _ in range(3_000)]
    assert np.mean(draws) < 0.12
