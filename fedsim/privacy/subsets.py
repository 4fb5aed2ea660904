"""Epsilon of Gaussian releases over samples of one size, drawn without replacement.

A release is a sum over m of n records, each of norm at most S, with noise. mu = 2 S / std, because replacing a drawn
record moves the sum by up to 2 S. Two data sets are neighbours if one record is replaced, or is added or removed. An
added or removed record changes the sum by up to 2 S as well: with probability at most q = m / n it is drawn, and it
takes the place of another record or leaves its place to one.

With f the trade-off function of the Gaussian mechanism, that of the sampled one is C_q(f) = min(f_q, f_q^-1)**, where
f_q = q f + (1 - q) Id (Dong, Roth and Su, arXiv:1905.02383, Theorem 4.2). For eps >= 0 its privacy profile is

    delta(eps) = q delta_mu(log(1 + (e^eps - 1) / q))          (Balle, Barthe and Gaboardi, arXiv:1807.01647, Theorem 9)

C_q(f) composes as any trade-off function does (Dong et al., Theorem 3.2), so its privacy losses can be added.
Let A = (1 - q) N(0, 1) + q N(mu, 1) and L(x) = log A(x) / N(0, 1)(x). L rises with x and is 0 at mu / 2. The loss is

    L(x) of x ~ A where that is above 0,    -L(x) of x ~ N(0, 1) where that is below 0,    0 otherwise.

The loss is rounded up to a grid, and Fourier transforms compute the distribution of sums. The result stays an upper
bound because of three steps: losses are rounded up, cut large losses count as infinite, and the mass outside of the
grid is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ROUNDING = 0.01  # rounding error of epsilon, at most, while the grid is not too large
_SMALLEST_GRID, _LARGEST_GRID = 2**17, 2**22
_LOST = 1e-3  # the part of delta for losses outside of the grid
_SMALLEST_DELTA = 1e-10  # the rounding errors of a Fourier transform are far below this


def epsilon(parts: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return an epsilon at `delta` of the composed releases (noise = 1 / mu, q, count); infinite if none is found."""
    if delta < _SMALLEST_DELTA:
        return math.inf
    count = sum(steps for _, _, steps in parts)
    highest = max(_highest_loss(noise, rate, _LOST * delta / (2 * count)) for noise, rate, _ in parts)
    edge = max(highest, _edge(parts, highest, _LOST * delta / 2))
    size = np.clip(2 ** math.ceil(math.log2(2 * edge * count / _ROUNDING)), _SMALLEST_GRID, _LARGEST_GRID)
    half = int(size) // 2
    grid: Floats = edge / half * np.arange(-half, half, dtype=np.float64)
    transform = np.ones(half + 1, np.complex128)
    finite = 1.0
    for noise, rate, steps in parts:
        pmf = _rounded_up(grid, noise, rate)
        finite *= pmf.sum() ** steps
        transform = transform * np.fft.rfft(np.fft.ifftshift(pmf)) ** steps
    summed: Floats = np.fft.fftshift(np.fft.irfft(transform, len(grid))).clip(0)
    lost = max(0.0, 1 - finite) + _LOST * delta / 2
    return _smallest(grid, summed, delta - lost)


def _smallest(grid: Floats, pmf: Floats, delta: float) -> float:
    """Return the least epsilon >= 0 with sum_{l > eps} pmf(l) (1 - e^(eps - l)) <= delta."""
    positive = grid > 0
    losses, masses = grid[positive][::-1], pmf[positive][::-1]  # from the largest loss down
    above, weighted = masses.cumsum(), (masses * np.exp(-losses)).cumsum()
    # With the k largest losses above eps, delta(eps) = above - e^eps weighted. This holds between two losses.
    deltas = above - np.exp(losses) * weighted  # at eps = the k-th largest loss
    first = int(np.searchsorted(deltas, delta, side="right"))
    if first == 0:
        return math.inf
    if first == len(deltas) and above[-1] - weighted[-1] <= delta:
        return 0.0
    return float(min(losses[first - 1], math.log((above[first - 1] - delta) / weighted[first - 1])))


def _point(loss: Floats, noise: float, rate: float) -> Floats:
    """Return the x with L(x) = loss > 0."""
    return noise * (np.log(np.expm1(loss) + rate) - math.log(rate)) + 1 / (2 * noise)


def _tails(loss: Floats, noise: float, rate: float) -> tuple[Floats, Floats]:
    """Return P[L > loss] under A and under N(0, 1), for losses >= 0."""
    from scipy.special import ndtr

    x = _point(loss, noise, rate)
    under_null = ndtr(-x)
    return (1 - rate) * under_null + rate * ndtr(1 / noise - x), under_null


def _highest_loss(noise: float, rate: float, mass: float) -> float:
    """Return a loss that is exceeded with probability at most `mass`."""
    high = 1.0
    while _tails(np.array(high), noise, rate)[0] > mass:
        high *= 1.25
    return high


def _rounded_up(grid: Floats, noise: float, rate: float) -> Floats:
    """Return the probabilities of the loss rounded up to the grid; omit losses above the grid, keep those below it."""
    half = len(grid) // 2
    above, _ = _tails(grid[half:], noise, rate)
    _, below = _tails(-grid[: half + 1], noise, rate)  # P[-L <= l] = P[L >= -l] of x ~ N(0, 1), for l <= 0
    pmf = np.zeros(len(grid))
    pmf[half + 1 :] = above[:-1] - above[1:]
    pmf[: half + 1] = np.diff(below, prepend=0.0)
    pmf[half] += max(0.0, 1 - above[0] - below[-1])
    return pmf


def _edge(parts: Sequence[tuple[float, float, int]], highest: float, mass: float) -> float:
    """Return a bound that the sum of losses up to `highest` leaves, on either side, with probability at most `mass`.

    Chernoff's bound is P[sum >= edge] <= e^(-r edge) prod E[e^(r loss)]; the lower side is similar. Mass below the
    lower end of the grid wraps around to the upper end, which can only increase epsilon.
    """
    grid = np.linspace(-highest, highest, 20_001)
    pmfs = [(_rounded_up(grid, noise, rate), steps) for noise, rate, steps in parts]
    best = math.inf
    spacing = float(grid[1] - grid[0])
    for r in np.geomspace(1e-3, 1e3, 60):
        logs = [0.0, 0.0]
        for pmf, steps in pmfs:
            for side, sign in enumerate((1, -1)):
                exponents = sign * r * grid + np.log(np.maximum(pmf, 1e-300))
                top = exponents.max()
                logs[side] += steps * (top + math.log(np.exp(exponents - top).sum()))
        best = min(best, (max(logs) - math.log(mass)) / r)
    return best + _ROUNDING + sum(steps for *_, steps in parts) * spacing  # each loss is rounded up once more
