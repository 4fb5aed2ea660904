"""Average gap and tug of war."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearning.evaluation.gaps import average_gap, tug_of_war

fractions = st.floats(0, 1)


def test_average_gap_in_points():
    ours, oracle = {"a": 0.9, "b": 0.5, "more": 7.0}, {"a": 0.8, "b": 0.8}
    assert average_gap(ours, oracle) == pytest.approx(20)
    assert average_gap(oracle, oracle) == 0


def test_what_is_better_than_the_oracle_on_kept_samples_is_no_gap():
    oracle = {"accuracy_retain": 0.8, "accuracy_test": 0.7, "accuracy_forget": 0.5}
    better = {"accuracy_retain": 0.9, "accuracy_test": 0.8, "accuracy_forget": 0.5}
    assert average_gap(better, oracle) == 0
    assert average_gap(oracle, better) == pytest.approx(100 * 0.2 / 3)


@given(fractions, fractions, fractions, fractions)
def test_gap_and_tug_of_war_are_symmetric_and_bounded(a, b, c, d):
    there, back = average_gap({"x": a, "y": b}, {"x": c, "y": d}), average_gap({"x": c, "y": d}, {"x": a, "y": b})
    assert there == back
    assert 0 <= there <= 100
    assert 0 <= tug_of_war((a, b), (c, d), (a, d)) == tug_of_war((b, a), (d, c), (d, a)) <= 1


def test_tug_of_war():
    assert tug_of_war((0.5, 0.5), (1, 1), (0, 0)) == 1
    assert tug_of_war((0.9, 0.4), (1.0, 0.9), (0.7, 0.8)) == pytest.approx(0.5 * 0.9 * 0.9)
