"""Epsilon of composed releases: a closed form where there is one, otherwise the accountants of Opacus.

T Gaussian releases with noise multiplier z have mu = sqrt(T) / z, and exactly (Dong et al., arXiv:1905.02383)

    delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu)

Poisson-subsampled releases use the PRV accountant of Opacus (arXiv:2106.02848); its upper bound is reported. The RDP
accountant of Opacus (arXiv:1908.10530) is looser and must agree with it. The GDP accountant of Opacus relies on a
central limit theorem and underestimates epsilon; it is not used. Opacus takes seconds to import, so it is imported
when first needed.

Samples of one size, m of n without replacement, are in `fedsim.privacy.subsets`. They amplify privacy for one replaced
record, and for one record added or removed where another record takes its place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fedsim.privacy import subsets
from fedsim.privacy.config import SMALLEST_NOISE


class Gaussian(NamedTuple):
    """`steps` releases of a sum with Gaussian noise, each over a random sample."""

    noise: float
    """Noise multiplier z: standard deviation over L2 sensitivity."""
    rate: float
    """Sampling rate q in (0, 1]."""
    steps: int
    """T, the number of releases."""
    fixed: bool = False
    """Whether samples have one size and are drawn without replacement; if not, they are Poisson samples."""


class Bound(NamedTuple):
    """An upper bound on epsilon."""

    epsilon: float
    accountant: str
    """exact, PRV, PLD or RDP; none if there was no noise."""


_RDP_ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [2**k for k in range(6, 13)]
_PRV_ERROR, _FINEST_PRV_ERROR = 0.01, 5e-4  # errors of epsilon
_LARGE_EPSILON = 100.0  # beyond this, the grid of PRV is too large, and epsilon says nothing
_LARGEST_GROUP_EPSILON = 400.0  # its exponential is below 1e200
_SMALL_DELTA = 1e-10  # below this, floating point does not resolve the tails of PRV


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the exact delta of mu-Gaussian DP at `epsilon` >= 0."""
    if mu == 0:
        return 0.0
    from scipy.special import log_ndtr  # imported here: it takes longer to load than the rest of this file

    log_a = log_ndtr(mu / 2 - epsilon / mu)
    log_b = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(math.exp(log_a) * -math.expm1(min(log_b - log_a, 0.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon >= 0 at which mu-Gaussian DP has at most `delta`."""
    if math.isinf(mu):
        return math.inf
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    # Phi(mu/2 - eps/mu) alone is below delta at the upper end of the search.
    return _smallest(lambda epsilon: gaussian_delta(epsilon, mu) <= delta, mu * mu / 2 + mu * 40.0)


def rdp_epsilon(history: Sequence[Gaussian], delta: float) -> float:
    """Return the epsilon of Opacus's RDP accountant, an upper bound."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [part[:3] for part in history]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # it warns that a larger order may be tighter
        return max(0.0, float(accountant.get_epsilon(delta, alphas=_RDP_ORDERS)))


def prv_epsilon(history: Sequence[Gaussian], delta: float, error: float = _PRV_ERROR) -> float:
    """Return the upper bound of Opacus's PRV accountant, at most about `error` above its estimate of epsilon."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [part[:3] for part in history]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return max(0.0, float(accountant.get_epsilon(delta, eps_error=error)))


def epsilon(history: Iterable[Gaussian], delta: float) -> Bound:
    """Return an upper bound on epsilon at `delta` of adaptively composed releases, the tightest that is known here.

    Raises
    ------
    ArithmeticError
        If the PRV and RDP accountants contradict each other: then neither can be trusted.
    """
    history = _merged(history)
    if not history:
        return Bound(0.0, "exact")
    if _silent(history):
        return Bound(math.inf, "none")
    if all(part.rate == 1 for part in history):
        return Bound(gaussian_epsilon(_mu(history), delta), "exact")
    # Ignoring the sampling also gives an upper bound. For one release with much noise it is tighter than RDP.
    unsampled = gaussian_epsilon(_mu(history), delta)
    if unsampled == 0:
        return Bound(0.0, "exact")
    if any(part.fixed for part in history):
        # A Poisson sample beside samples of one size counts as a sample of all records.
        parts = [(part.noise, part.rate if part.fixed else 1.0, part.steps) for part in history]
        return Bound(min(unsampled, subsets.epsilon(parts, delta)), "PLD")
    rdp = rdp_epsilon(history, delta)
    if rdp > _LARGE_EPSILON or delta < _SMALL_DELTA:
        return Bound(rdp, "RDP")
    prv = prv_epsilon(history, delta)
    if prv < 1:
        prv = prv_epsilon(history, delta, max(0.003 * prv, _FINEST_PRV_ERROR))
    if not math.isfinite(prv):
        return Bound(rdp, "RDP")
    if prv > min(rdp, unsampled) + 2 * _PRV_ERROR:
        raise ArithmeticError(f"PRV {prv:g} is above RDP {rdp:g} or the unsampled {unsampled:g} for {history}")
    return Bound(prv, "PRV")


class Replaced(NamedTuple):
    """A guarantee for one record replaced by another."""

    epsilon: float
    at_delta: float
    """The delta' of the add-or-remove guarantee that this follows from."""
    accountant: str


def replaced(history: Sequence[Gaussian], delta: float, pure: float = 0.0) -> Replaced:
    """Return the guarantee for one record replaced, from the guarantee for one record added or removed.

    A replacement is a removal and an addition: (2 eps', (1 + e^eps') delta'), with delta' such that the second entry is
    `delta`. Without sampling the result is exact instead: the sensitivity doubles. `pure` is the epsilon of releases
    with delta = 0.
    """
    history = _merged(history)
    cheap = rdp_replaced(history, delta, pure)
    if math.isinf(cheap.epsilon) or cheap.accountant != "RDP":
        return cheap
    found = _grouped(history, delta, pure, [epsilon] * 2, cheap.at_delta)
    return Replaced(2 * (pure + found.epsilon), found.at_delta, found.accountant)


def rdp_replaced(history: Sequence[Gaussian], delta: float, pure: float = 0.0) -> Replaced:
    """Return the result of `replaced`, or an upper bound on it where `replaced` needs the PRV accountant.

    It takes milliseconds.
    """
    history = _merged(history)
    if _silent(history):
        return Replaced(math.inf, delta, "none")
    if all(part.rate == 1 for part in history):
        doubled = epsilon([part._replace(noise=part.noise / 2) for part in history], delta)
        return Replaced(2 * pure + doubled.epsilon, delta, doubled.accountant)
    found = _grouped(history, delta, pure, [_rdp] * 8, delta * 1e-200)
    return Replaced(2 * (pure + found.epsilon), found.at_delta, found.accountant)


def _grouped(
    history: Sequence[Gaussian], delta: float, pure: float, accounts: Sequence[Account], at_delta: float
) -> Replaced:
    """Return the guarantee at a delta' with (1 + e^eps(delta')) delta' = `delta`, starting from a smaller `at_delta`.

    From a valid delta', delta / (1 + e^eps(delta')) is a larger valid one. RDP is cheap and comes near the largest one;
    PRV does the last steps.
    """
    for account in accounts:
        bound = account(history, at_delta)
        if pure + bound.epsilon > _LARGEST_GROUP_EPSILON:
            return Replaced(math.inf, delta, "none")
        at_delta = max(at_delta, delta / (1 + math.exp(pure + bound.epsilon)))
    bound = accounts[-1](history, at_delta)
    return Replaced(bound.epsilon, at_delta, bound.accountant)


def _rdp(history: Sequence[Gaussian], delta: float) -> Bound:
    return Bound(rdp_epsilon(history, delta), "RDP")


Account = Callable[[Sequence[Gaussian], float], Bound]


def calibrate(target: float, delta: float, schedules: Iterable[tuple[float, int]], *, fixed: bool = False) -> float:
    """Return the least noise multiplier, to about 0.1 %, at which each (sampling rate, count) has epsilon <= `target`.

    `fixed` tells whether samples have one size, see `Gaussian`.

    Raises
    ------
    ValueError
        If `target` is so small that it needs a noise multiplier above a million.
    """
    worst = frontier(schedules)
    if not worst:
        return 0.0

    def highest(noise: float, schedule: Sequence[tuple[float, int]]) -> float:
        return max(epsilon([Gaussian(noise, rate, count, fixed)], delta).epsilon for rate, count in schedule)

    # Without sampling the closed form gives an upper end. Halving it avoids noise levels that are slow to account for.
    high = math.sqrt(max(count for _, count in worst)) / _largest_mu(target, delta)
    if high > 1e6:
        raise ValueError(f"an epsilon of {target:g} needs noise above a million times the sensitivity")
    if all(rate == 1 for rate, _ in worst):
        return high
    while highest(high / 2, worst) <= target:
        high /= 2
    low = high / 2
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if highest(middle, worst) <= target else (middle, high)
    return high


def frontier(schedules: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the (sampling rate, count) pairs that no other pair exceeds in both; epsilon rises with both."""
    kept: list[tuple[float, int]] = []
    for rate, count in sorted(set(schedules), reverse=True):
        if count and all(count > other for _, other in kept):
            kept.append((rate, count))
    return kept


def _largest_mu(target: float, delta: float) -> float:
    return 1 / _smallest(lambda inverse: gaussian_delta(target, 1 / inverse) <= delta, 1e7)


def _silent(history: Sequence[Gaussian]) -> bool:
    return any(part.noise < SMALLEST_NOISE for part in history)


def _mu(history: Sequence[Gaussian]) -> float:
    return math.sqrt(sum(part.steps / part.noise**2 for part in history))


def _merged(history: Iterable[Gaussian]) -> list[Gaussian]:
    counts: dict[tuple[float, float, bool], int] = {}
    for noise, rate, count, fixed in history:
        counts[noise, rate, fixed] = counts.get((noise, rate, fixed), 0) + count
    return [Gaussian(noise, rate, count, fixed) for (noise, rate, fixed), count in sorted(counts.items()) if count]


def _smallest(holds: Callable[[float], bool], high: float) -> float:
    """Return the smallest positive number from which on `holds` is true, rounded to the safe side."""
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
