"""Samples of one size: exact divergences of small cases."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from fedsim.privacy import subsets
from fedsim.privacy.accountant import Gaussian, epsilon, gaussian_delta, gaussian_epsilon
from tests.fedsim.privacy.one_round import Floats


def density(x: Floats, values: Sequence[float], m: int, noise: float) -> Floats:
    """Return the density of a noisy sum of m of these values, drawn without replacement."""
    samples = list(itertools.combinations(values, m))
    return np.mean([norm.pdf(x, sum(sample), noise) for sample in samples], axis=0)


def divergence(p: Floats, q: Floats, eps: float, cell: float) -> float:
    return float(np.clip(p - math.exp(eps) * q, 0, None).sum() * cell)


def profile(eps: float, q: float, noise: float) -> float:
    """Return delta of one release, at eps >= 0."""
    return q * gaussian_delta(math.log1p(math.expm1(eps) / q), 2 / noise)


@pytest.mark.parametrize(("n", "m", "noise"), [(3, 1, 1.0), (3, 2, 1.0), (4, 1, 0.7), (4, 3, 2.0)])
def test_no_pair_of_neighbours_exceeds_the_theorem_and_the_worst_attains_it(n, m, noise):
    """All values from {-1, 0, 1} of n - 1 others and one replaced, added or removed."""
    x = np.linspace(-m - 9 * noise, m + 9 * noise, 6001)
    cell = x[1] - x[0]
    for eps in (0.0, 0.5, 2.0, 4.0):
        largest = 0.0
        for others in itertools.combinations_with_replacement((-1.0, 0.0, 1.0), n - 1):
            with_one = [density(x, (*others, value), m, noise) for value in (-1.0, 0.0, 1.0)]
            sets = [*with_one, density(x, others, m, noise)]
            for p, q in itertools.permutations(sets, 2):
                largest = max(largest, divergence(p, q, eps, cell))
        claimed = profile(eps, m / n, noise)
        assert largest <= claimed * (1 + 1e-5) + 1e-9
        assert largest == pytest.approx(claimed, rel=1e-4, abs=1e-9)


def test_two_releases_together_stay_below_what_is_composed():
    m, n, noise = 1, 3, 1.5
    x = np.linspace(-12, 12, 1201)
    cell = (x[1] - x[0]) ** 2
    for delta in (1e-2, 1e-4):
        claimed = subsets.epsilon([(noise / 2, m / n, 2)], delta)
        worst = 0.0
        for others in itertools.combinations_with_replacement((-1.0, 0.0, 1.0), n - 1):
            ones = [density(x, (*others, value), m, noise) for value in (-1.0, 1.0)]
            for p, q in itertools.permutations(ones, 2):
                worst = max(worst, divergence(np.outer(p, p), np.outer(q, q), claimed, cell))
        assert 0.3 * delta < worst <= delta  # an upper bound, and no empty one


def test_the_accountant_is_exact_for_one_release_and_without_sampling():
    for q, exact in [(0.25, 5.292), (0.5, 6.4505), (0.9, 7.4111)]:  # z = 1, delta 1e-3
        assert epsilon([Gaussian(0.5, q, 1, fixed=True)], 1e-3).epsilon == pytest.approx(exact, abs=0.002)
        assert profile(exact, q, 1.0) == pytest.approx(1e-3, rel=1e-3)
    for count in (1, 7, 300):
        found = subsets.epsilon([(5.0, 1.0, count)], 1e-5)
        exact = gaussian_epsilon(math.sqrt(count) / 5, 1e-5)
        assert exact <= found <= exact + 0.02
    one, other = (subsets.epsilon([(2.0, 0.3, count)], 1e-5) for count in (20, 40))
    assert subsets.epsilon([(2.0, 0.3, 20), (2.0, 0.3, 20)], 1e-5) == pytest.approx(other, abs=0.02)
    assert one < other
    assert subsets.epsilon([(1.0, 0.5, 3)], 1e-300) == math.inf
