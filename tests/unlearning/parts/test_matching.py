"""Matching in the convex case, against other losses."""

import numpy as np
import torch

from unlearning.parts.matching import matching_loss


def test_matching_interpolates_where_other_losses_do_not() -> None:
    """Ridge: at the retrained weights every sample's gradient of matching is 0, so SGD has no floor; CE-like losses do.

    The retrained weights are w - A^-1 X_F^T (I - H_F)^-1 (y_F - X_F w), H_F = X_F A^-1 X_F^T, A = X^T X + lambda I.
    """
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((400, 30)), 30
    y = x @ rng.standard_normal(d) + rng.standard_normal(400)
    gone, kept, sampled = x[:10], slice(10, None), np.arange(70)
    a = x.T @ x + np.eye(d)
    w = np.linalg.solve(a, x.T @ y)
    oracle = np.linalg.solve(x[kept].T @ x[kept] + np.eye(d), x[kept].T @ y[kept])
    left = np.linalg.inv(a)
    block = w - left @ gone.T @ np.linalg.solve(np.eye(10) - gone @ left @ gone.T, y[:10] - gone @ w)
    assert np.abs(block - oracle).max() < 1e-12

    def descended(target: np.ndarray, sign: float, rows: np.ndarray, lr: float) -> float:
        theta, draws = torch.tensor(w, requires_grad=True), np.random.default_rng(1)
        for _ in range(2_000):
            some = draws.choice(rows, 8)
            loss = sign * matching_loss(torch.tensor(x[some]) @ theta, torch.tensor(target[some]))
            (slope,) = torch.autograd.grad(loss, theta)
            theta = (theta - lr * slope).detach().requires_grad_()
        return float(np.linalg.norm(theta.detach().numpy() - oracle))

    start = float(np.linalg.norm(w - oracle))
    assert descended(x @ oracle, 1, sampled, 0.025) < 0.01 * start
    assert descended(y, 1, np.arange(10, 400), 0.025) > 2 * start  # retraining by SGD stalls above where it began
    assert descended(y, -1, np.arange(10), 0.001) > 10 * start  # ascent diverges
