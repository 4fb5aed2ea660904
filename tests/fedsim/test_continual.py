import numpy as np
import pytest

from fedsim.continual import accuracy_matrix, forgetting, forgetting_at_ends, measures, stage_accuracies

nan = np.nan
BLOCKS = [np.array([0, 3]), np.array([1]), np.array([2])]
ROUNDS = [1, 2, 3, 4, 5, 6]
ENDS = [2, 4, 6]
# Class 3 peaks at .9 in round 3, in the middle of the second stage.
PER_CLASS = np.array([
    [0.5, nan, nan, 0.4],
    [0.8, nan, nan, 0.6],
    [0.6, 0.2, nan, 0.9],
    [0.4, 0.7, nan, 0.5],
    [0.3, 0.6, 0.5, 0.2],
    [0.2, 0.3, 0.9, 0.1],
])  # fmt: skip


def test_the_matrix_holds_each_stage_after_each_stage():
    matrix = accuracy_matrix(PER_CLASS[[1, 3, 5]], BLOCKS)
    expected = [[0.7, nan, nan], [0.45, 0.7, nan], [0.15, 0.3, 0.9]]
    np.testing.assert_allclose(matrix, expected)


def test_forgetting_by_hand():
    # f_0 = ((.8 - .2) + (.9 - .1)) / 2 = .7, f_1 = .7 - .3 = .4; peaks: (.8 + .9) / 2 = .85 and .7.
    f, r = forgetting(PER_CLASS, BLOCKS)
    assert f == pytest.approx(0.55)
    assert r == pytest.approx(1.1 / 1.55)
    # By stage ends: stage 0 fell from .7 to .15, stage 1 from .7 to .3.
    assert forgetting_at_ends(accuracy_matrix(PER_CLASS[[1, 3, 5]], BLOCKS)) == pytest.approx((0.55 + 0.4) / 2)


def test_measures_of_a_round():
    last = measures(PER_CLASS, ROUNDS, BLOCKS, ENDS)
    assert last == pytest.approx({
        "accuracy_old": 0.2, "accuracy_new": 0.9, "forgetting": 0.55, "relative_forgetting": 1.1 / 1.55,
        "forgetting_ends": 0.475,
    })  # fmt: skip
    middle = measures(PER_CLASS[:3], ROUNDS[:3], BLOCKS[:2], [2, 4])
    assert middle["forgetting"] == pytest.approx(((0.8 - 0.6) + (0.6 - 0.9)) / 2)  # class 3 has got better
    assert measures(PER_CLASS[:2], ROUNDS[:2], BLOCKS[:1], [2]) == {}
    # A stage whose end was never measured has no end-of-stage accuracy.
    assert "forgetting_ends" not in measures(PER_CLASS[[3, 5]], [5, 6], BLOCKS, ENDS)


def test_classes_without_test_samples_count_nowhere():
    some = PER_CLASS.copy()
    some[:, 3] = nan
    assert forgetting(some, BLOCKS)[0] == pytest.approx((0.6 + 0.4) / 2)
    assert np.isnan(stage_accuracies(some[0], [np.array([3])])).all()
