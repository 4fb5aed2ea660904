"""Cohorts."""

import numpy as np
import pytest

from fedsim.federated.sampling import poisson_cohort


def test_poisson_cohorts_are_independent_coins():
    sizes = np.array([3, 0, 5, 1, 2, 9])
    rng = np.random.default_rng(0)
    drawn = np.zeros((4000, 6))
    for row in drawn:
        row[list(poisson_cohort(rng, sizes, 0.3))] = 1
    assert drawn[:, 1].sum() == 0  # it has nothing to train on
    able = drawn[:, sizes > 0]
    assert able.mean(0) == pytest.approx(0.3, abs=0.03)
    assert np.abs(np.corrcoef(able.T) - np.eye(5)).max() < 4 / 4000**0.5
    assert list(poisson_cohort(rng, sizes, 1.0)) == [5, 2, 0, 4, 3]  # largest first
