"""Intervals over seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.evaluation.intervals import interval, over_seeds


def test_a_known_interval():
    """1, 2, 3: mean 2, sd 1, t_2(.975) = 4.3027, so 2 +- 4.3027 / sqrt 3."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.seeds) == (2, 1, 3)
    assert found.high - 2 == pytest.approx(2 - found.low) == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(3)
    found = [interval(row, confidence=0.8) for row in rng.normal(7, 2, (2000, 4))]
    assert np.mean([i.low <= 7 <= i.high for i in found]) == pytest.approx(0.8, abs=0.03)


def test_one_seed_has_no_interval():
    assert vars(interval([3.0])) == {"mean": 3.0, "sd": None, "low": None, "high": None, "seeds": 1}
    with pytest.raises(ValueError, match="finite value per seed"):
        interval([])
    with pytest.raises(ValueError, match="finite value per seed"):
        interval([float("nan")])


def test_any_metric_over_seeds():
    found = over_seeds([{"a": 1.0, "b": None, "c": None}, {"a": 3.0, "b": 5.0}])
    assert {name: (i.mean, i.seeds) for name, i in found.items()} == {"a": (2, 2), "b": (5, 1)}


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(-10, 10))
def test_intervals_move_with_their_values(values, shift):
    before, after = interval(values), interval([v + shift for v in values])
    assert before.low <= before.mean <= before.high
    for edge in ("low", "mean", "high"):
        assert getattr(after, edge) == pytest.approx(getattr(before, edge) + shift, abs=1e-6)
