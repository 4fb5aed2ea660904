"""Closed forms for learning a linear model from bag means, with and without label privacy (arXiv:2401.11081).

The full theorem of the paper was not available. So q, b_f and V_f below are our own derivation for isotropic Gaussian
features; it agrees with the paper's published special cases (rho = 0: sigma^2 / (psi/k - 1), no bias; rho = 1:
variance sigma^2 / (k (psi - 1))). The method itself is in `strategies/aggregate.py`.

Setting: y = <x, theta0> + w, Var w = sigma^2, x ~ N(0, I_d), n / d -> psi, bags of k drawn at random.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def solution(x: npt.ArrayLike, y: npt.ArrayLike, rho: float) -> Floats:
    """Return theta_rho (d,), the minimiser of L_rho over linear models without intercept.

    theta_rho = (Zbar^T Zbar + (rho/k) D^T D)^{-1} Zbar^T y, with Zbar the bag means of x (m, k, d), D the deviations
    from them, and y the responses (m,) of the bags.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is singular.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    z_bar = x.mean(axis=1)
    deviations = (x - z_bar[:, None]).reshape(-1, x.shape[2])
    gram = z_bar.T @ z_bar + rho / x.shape[1] * (deviations.T @ deviations)
    theta: Floats = np.linalg.solve(gram, z_bar.T @ y)
    return theta


class Limit(NamedTuple):
    """The parts of the excess risk ||theta_rho - theta0||^2 -> ||theta0||^2 bias + sigma^2 variance."""

    q: float
    """lim tr G^{-1} of G = Z^T Z + rho W^T W: the root of p1 q/(1+q) + p2 rho q/(1+rho q) = 1."""
    bias: float
    """b_f."""
    variance: float
    """V_f."""

    def risk(self, signal: float, noise: float) -> float:
        """Return the excess risk for ||theta0||^2 = `signal` and sigma^2 = `noise`."""
        return signal * self.bias + noise * self.variance


def limit(psi: float, k: int, rho: float) -> Limit:
    """Return the limits of `solution` at n = psi d and bags of k.

    Raises
    ------
    ValueError
        If there is no limit: it needs psi > 1, and psi > k if rho is 0.
    """
    if psi <= (1 if rho > 0 else k):
        raise ValueError(f"needs psi > {'1' if rho > 0 else 'k'}, got psi {psi:g}, k {k}, rho {rho:g}")
    p1, p2 = psi / k, psi * (k - 1) / k
    beta = p1 + rho * p2 - 1 - rho
    q = 2 / (beta + np.sqrt(beta**2 + 4 * rho * (psi - 1)))
    f = p1 / (1 + q) ** 2 + rho * p2 / (1 + rho * q) ** 2
    variance = p1 * q / (1 + q) ** 2 / f
    bias = rho**2 * q / f * (p2 / (1 + rho * q) ** 2 + p2**2 * (1 - rho * q) / (1 + rho * q) ** 3)
    return Limit(float(q), float(bias), float(variance))


def label_noise(bound: float, k: int, epsilon: float) -> float:
    """Return the variance that Laplace noise of scale s = 2B/(k eps) adds to sigma^2: k * 2 s^2 = 8 B^2/(k eps^2)."""
    return 8 * bound**2 / (k * epsilon**2)


def private_risk(
    psi: float, k: int, rho: float, epsilon: float | None, *, bound: float, signal: float, noise: float
) -> float:
    """Return Risk(k, rho, eps) ~ ||theta0||^2 b_f + (sigma^2 + 8 B^2/(k eps^2)) V_f; epsilon None is no label privacy.

    The paper's limit uses the scale B/(k eps), which is 2 eps-label-DP for one replaced response.
    """
    extra = 0.0 if epsilon is None else label_noise(bound, k, epsilon)
    return limit(psi, k, rho).risk(signal, noise + extra)


def best_bag_size(
    sizes: Sequence[int], psi: float, rho: float, epsilon: float | None, *, bound: float, signal: float, noise: float
) -> int:
    """Return the k in `sizes` with the least `private_risk`; of equal ones the smallest.

    Raises
    ------
    ValueError
        If no k has a finite risk.
    """
    able = [k for k in sizes if psi > (1 if rho > 0 else k)]
    if not able:
        raise ValueError(f"no bag size has a finite risk at {psi:g} samples per column")
    return min(able, key=lambda k: private_risk(psi, k, rho, epsilon, bound=bound, signal=signal, noise=noise))


def cross_validated_rho(
    x: npt.ArrayLike, y: npt.ArrayLike, rhos: Sequence[float], rng: np.random.Generator, folds: int = 5
) -> float:
    """Return the rho with the least bag-level loss in cross-validation over folds of bags.

    It only sees the (noisy) responses of bags, so it costs no privacy. x is (m, k, d), y is (m,).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    fold = rng.permutation(np.arange(len(y)) % folds)

    def loss(rho: float) -> float:
        thetas = [solution(x[fold != f], y[fold != f], rho) for f in range(folds)]
        return sum(
            float(((y[fold == f] - x[fold == f].mean(axis=1) @ theta) ** 2).sum()) for f, theta in enumerate(thetas)
        )

    return min(rhos, key=loss)
