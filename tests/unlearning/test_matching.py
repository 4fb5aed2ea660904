"""Datamodel and oracle matching: what leaves a model as it is, what moves it where, and the convex case."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, new_model
from unlearning.parts.matching import matching_loss


@torch.no_grad()
def logits(model, view):
    return model.eval()(view.all()[0])


@pytest.fixture(params=["batch", "none"])
def model(request):
    return new_model("mlp", request.param, hidden=(32,))


def test_nothing_to_subtract_leaves_the_model_bit_for_bit(model) -> None:
    views = [replace(view, shift=torch.zeros(len(view), 10)) for view in few()]
    assert_same_bits(apply("datamodel_matching", model, *views, epochs=3, batch_size=37), model)


def test_itself_as_oracle_is_matched_already(model) -> None:
    views = [replace(view, oracle=logits(model, view)) for view in few()]
    found = apply("oracle_matching", model, *views, epochs=3, lr=1e-6, batch_size=1_000)
    for view in views:
        assert float(matching_loss(logits(found, view), view.oracle)) < 1e-8


def test_logits_move_by_the_shift(model) -> None:
    forget, retain = few(40, 200)
    of_label = torch.nn.functional.one_hot(forget.y, 10) * 2.0  # the forgotten samples lose 2 on their own class
    forget, retain = replace(forget, shift=of_label), replace(retain, shift=torch.zeros(200, 10))
    found = apply("datamodel_matching", model, forget, retain, epochs=100, lr=3e-3)
    goals = [logits(model, view) - view.shift for view in (forget, retain)]
    after = [
        float(matching_loss(logits(found, view), goal)) for view, goal in zip((forget, retain), goals, strict=True)
    ]
    assert after[0] < 0.4 * float(of_label.square().mean())  # what it was before
    assert after[1] < 0.4 * float(of_label.square().mean())
    lost = (logits(model, forget) - logits(found, forget)).gather(1, forget.y[:, None])
    assert float(lost.mean()) > 0.5


def test_an_oracle_is_approached(model) -> None:
    oracle = new_model("mlp", hidden=(32,), seed=5)
    forget, retain = (replace(view, oracle=logits(oracle, view)) for view in few(40, 200))
    found = apply("oracle_matching", model, forget, retain, epochs=60, lr=3e-3)
    before, after = (float(matching_loss(logits(m, forget), forget.oracle)) for m in (model, found))
    assert after < 0.2 * before


def test_running_statistics_stay(model) -> None:
    views = [replace(view, shift=torch.ones(len(view), 10)) for view in few()]
    found = apply("datamodel_matching", model, *views, epochs=2)
    assert not [name for name in differs(found, model) if "running" in name or "num_batches" in name]
    assert differs(found, model)


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
