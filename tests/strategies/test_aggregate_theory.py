"""The closed forms against their published special cases, their defining equations, autograd and simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from strategies.aggregate import squared_errors
from strategies.aggregate_theory import (
    best_bag_size,
    cross_validated_rho,
    label_noise,
    limit,
    private_risk,
    solution,
)

# psi, k, rho, q, b_f, V_f, sigma, risk; q and risk at rho 0 by hand: 1 / (psi/k - 1) = 1, sigma^2 * 1.
TABLE = [
    (4, 2, 0.0, 1.000000, 0.0, 1.000000, 0.5, 0.2500),
    (4, 2, 0.3, 0.555556, 0.140787, 0.362319, 0.5, 0.2314),
    (4, 2, 1.0, 0.333333, 0.333333, 0.166667, 0.5, 0.3750),
    (6, 3, 0.2, 0.480625, 0.174329, 0.277843, 1.0, 0.4522),
    (10, 5, 0.5, 0.187184, 0.501429, 0.055760, 0.5, 0.5154),
    (3, 5, 0.3, None, 0.605853, 0.299960, 0.5, 0.6808),
]


@pytest.mark.parametrize(("psi", "k", "rho", "q", "bias", "variance", "sigma", "risk"), TABLE)
def test_the_table_of_limits(psi, k, rho, q, bias, variance, sigma, risk):
    found = limit(psi, k, rho)
    if q is not None:
        assert found.q == pytest.approx(q, abs=1e-6)
    # The row with fewer bags than columns was given to a finite sample's 6 digits of another route: 5e-6 off.
    assert found.bias == pytest.approx(bias, abs=1e-6 if q is not None else 1e-5)
    assert found.variance == pytest.approx(variance, abs=1e-6 if q is not None else 3e-6)
    assert found.risk(1, sigma**2) == pytest.approx(risk, abs=1e-4)


def above_one(low: float) -> st.SearchStrategy[float]:
    return st.floats(low, 1000)


@given(above_one(1.05), st.integers(1, 40), st.floats(0.001, 10))
def test_q_is_the_root_and_shares_are_in_range(psi, k, rho):
    q, bias, variance = limit(psi, k, rho)
    p1, p2 = psi / k, psi * (k - 1) / k
    assert p1 * q / (1 + q) + p2 * rho * q / (1 + rho * q) == pytest.approx(1, abs=1e-9)
    assert q > 0
    assert bias >= -1e-12
    assert variance > 0


@given(above_one(1.05), st.integers(1, 40), st.floats(0, 10))
def test_limits_that_were_published(psi, k, rho):
    assert limit(psi, 1, max(rho, 0.0)).bias == pytest.approx(0, abs=1e-12)  # a bag of one has no deviations
    assert limit(psi, 1, rho).variance == pytest.approx(1 / (psi - 1))
    one = limit(psi, k, 1)
    assert one.variance == pytest.approx(1 / (k * (psi - 1)))
    assert one.bias == pytest.approx((k - 1) * (k + (k - 1) * (psi - 2)) / (k**2 * (psi - 1)), abs=1e-12)
    if psi > 1.01 * k:
        zero = limit(psi, k, 0)
        assert zero.bias == 0
        assert zero.variance == pytest.approx(1 / (psi / k - 1))
        near = limit(psi, k, 1e-12)  # and rho -> 0 goes there
        assert near.variance == pytest.approx(zero.variance, rel=1e-5)


@pytest.mark.parametrize(
    ("psi", "k", "sigma", "rho", "risk"),
    [(4, 2, 0.5, 0.097, 0.192), (4, 2, 1, 0.554, 0.481), (4, 2, 2, 4.49, 0.795), (10, 5, 2, 0.586, 0.722)],
)
def test_the_best_interpolation(psi, k, sigma, rho, risk):
    found = minimize_scalar(lambda r: limit(psi, k, r).risk(1, sigma**2), bounds=(1e-6, 20), method="bounded")
    assert found.x == pytest.approx(rho, abs=0.006)
    assert found.fun == pytest.approx(risk, abs=1e-3)


def test_no_limit_without_enough_samples():
    for psi, k, rho in ((2, 2, 0), (1, 2, 0.5), (3, 5, 0)):
        with pytest.raises(ValueError, match="needs psi >"):
            limit(psi, k, rho)


def draw(rng, d, m, k, sigma):
    theta0 = rng.standard_normal(d)
    theta0 /= np.linalg.norm(theta0)
    x = rng.standard_normal((m, k, d))
    return x, x @ theta0 + sigma * rng.standard_normal((m, k)), theta0


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_the_solution_zeroes_the_gradient_and_solves_the_pooled_normal_equations(rho):
    rng = np.random.default_rng(0)
    x, y, _ = draw(rng, 7, 40, 3, 1.0)
    x = x * np.arange(1, 8) + 1  # neither isotropic nor centred
    means = y.mean(axis=1)
    theta = torch.tensor(solution(x, means, rho), requires_grad=True)
    bag, spread = squared_errors(torch.tensor(means), torch.tensor(x) @ theta)
    (bag + rho * spread).mean().backward()
    assert theta.grad.abs().max() < 1e-10
    # X^T [(1 - rho) Pi + rho I] X theta = X^T Pi Y with Pi the projector onto bags, written out.
    flat, pi = x.reshape(-1, 7), np.kron(np.eye(40), np.full((3, 3), 1 / 3))
    pooled = np.linalg.solve(flat.T @ ((1 - rho) * pi + rho * np.eye(120)) @ flat, flat.T @ pi @ y.reshape(-1))
    np.testing.assert_allclose(solution(x, means, rho), pooled, atol=1e-12)


@pytest.mark.parametrize(("psi", "k", "rho", "q", "bias", "variance", "sigma", "risk"), TABLE)
def test_simulated_risk_is_the_predicted_one(psi, k, rho, q, bias, variance, sigma, risk):
    """d = 200, 50 draws; the part of the noise is the solution of noise alone, as the solution is linear in y."""
    d, m = 200, 200 * psi // k
    risks, variances = [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        x, y, theta0 = draw(rng, d, m, k, sigma)
        noise = (y - x @ theta0).mean(axis=1)
        signal = solution(x, y.mean(axis=1) - noise, rho) - theta0
        of_noise = solution(x, noise, rho)
        risks.append(((signal + of_noise) ** 2).sum())
        variances.append((of_noise**2).sum())
    assert np.mean(variances) == pytest.approx(sigma**2 * variance, rel=0.03)
    assert np.mean(risks) == pytest.approx(risk, rel=0.06)


BOUND = 1.6 * math.sqrt(math.log(6 * 150))


@pytest.mark.parametrize(
    ("k", "rho", "epsilon", "risk"), [(2, 0.3, 4, 1.141), (4, 1, 4, 0.721), (5, 1, 4, 0.752), (5, 1, 1, 1.797)]
)
def test_private_risk_is_predicted_and_simulated(k, rho, epsilon, risk):
    predicted = private_risk(6, k, rho, epsilon, bound=BOUND, signal=1, noise=0.25)
    assert predicted == pytest.approx(risk, abs=6e-4)
    risks = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y, theta0 = draw(rng, 150, 900 // k, k, 0.5)
        means = y.clip(-BOUND, BOUND).mean(axis=1) + rng.laplace(scale=2 * BOUND / (k * epsilon), size=900 // k)
        risks.append(((solution(x, means, rho) - theta0) ** 2).sum())
    assert np.mean(risks) == pytest.approx(risk, rel=0.06)


def test_label_noise_is_k_times_the_variance_of_the_laplace_noise():
    draws = np.random.default_rng(0).laplace(scale=2 * 3.5 / (4 * 0.7), size=400_000)
    assert label_noise(3.5, 4, 0.7) == pytest.approx(4 * draws.var(), rel=0.02)


@pytest.mark.parametrize(("psi", "switch"), [(6, 0.02803), (10, 0.02727)])
def test_the_best_bag_size_jumps_from_one_to_five(psi, switch):
    """Where label noise dominates, over the paper's grid of sizes; no size between is ever best."""

    def best(rho: float) -> int:
        return best_bag_size(range(1, 6), psi, rho, 1e-3, bound=1, signal=1, noise=0.25)

    assert {best(rho) for rho in np.linspace(0, switch - 1e-5, 20)} == {1}
    assert {best(rho) for rho in np.linspace(switch + 1e-5, 1, 40)} == {5}


def test_the_best_bag_size_without_privacy_is_one_and_with_some_lies_inside():
    assert best_bag_size(range(1, 6), 6, 0.3, None, bound=1, signal=1, noise=0.25) == 1
    assert best_bag_size(range(1, 6), 6, 1.0, 4.0, bound=BOUND, signal=1, noise=0.25) == 3
    with pytest.raises(ValueError, match="no bag size"):
        best_bag_size([4, 5], 3, 0.0, 1.0, bound=1, signal=1, noise=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cross_validation_sees_bags_only_and_prefers_what_predicts_them(seed):
    rng = np.random.default_rng(seed)
    x, y, theta0 = draw(rng, 10, 60, 4, 0.1)
    noisy = y.mean(axis=1) + rng.normal(scale=0.05, size=60)
    chosen = cross_validated_rho(x, noisy, (0.0, 10.0), np.random.default_rng(0))
    errors = {rho: ((solution(x, noisy, rho) - theta0) ** 2).sum() for rho in (0.0, 10.0)}
    assert chosen == min(errors, key=errors.get) == 0.0  # nearly noiseless: any shrinkage is harm
