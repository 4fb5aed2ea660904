"""TRAK against retraining of logistic regression, sample by sample, and against the formula of the authors' library."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fedsim.models.base import Classifier
from unlearning.parts.trak import early_stopping_ridge, features, margin, scores, trak


def regression(weights: torch.Tensor) -> Classifier:
    """Return a model of two classes whose margin is <x, w>."""
    model = Classifier(torch.nn.Flatten(), len(weights), 2, intercept=False).double()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.stack([-weights / 2, weights / 2]))
    return model.eval()


def optimum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the weights of ridge logistic regression, by Newton's method."""
    w, signs = torch.zeros(x.shape[1], dtype=torch.float64), 2.0 * y - 1
    for _ in range(30):
        p = torch.sigmoid(-signs * (x @ w))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 0.1 * torch.eye(x.shape[1], dtype=torch.float64)
        w = w - torch.linalg.solve(hessian, -(x.T @ (signs * p)) + 0.1 * w)
    return w


@pytest.fixture(scope="module")
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=draws, dtype=torch.float64)
    truth = torch.randn(6, generator=draws, dtype=torch.float64)
    y = (torch.rand(120, generator=draws) < torch.sigmoid(1.5 * x @ truth)).long()
    points, labels = x[:20] + 0.3, y[:20]
    w = optimum(x, y)
    signs = 2.0 * labels - 1
    kept = [torch.arange(120) != i for i in range(120)]
    change = torch.stack([signs * (points @ (w - optimum(x[rows], y[rows]))) for rows in kept], 1)
    return x, y, points, labels, change.numpy()


def test_the_margin_is_the_log_odds() -> None:
    z = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = z.softmax(0)[3]
    torch.testing.assert_close(margin(z, torch.tensor(3)), torch.log(p / (1 - p)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(margin(z + 5, torch.tensor(3)), margin(z, torch.tensor(3)), rtol=1e-9, atol=1e-9)


def test_it_predicts_leaving_one_out_in_rank_and_in_scale(given: tuple) -> None:
    x, y, points, labels, change = given
    model = regression(optimum(x, y))
    told = trak([model], (x, y), (points, labels), dimension=100, seed=0).numpy()
    ranks = [spearmanr(ours, theirs).statistic for ours, theirs in zip(told, change, strict=True)]
    assert np.mean(ranks) > 0.98
    # A Newton step leaves out 1 / (1 - leverage), which is above 1.
    assert 1 < (told * change).sum() / (told**2).sum() < 1.25
    assert (np.sort(told[0])[-1] > 0) & (np.sort(told[0])[0] < 0)


def test_unweighted_it_is_the_library_s_and_has_another_scale(given: tuple) -> None:
    x, y, points, labels, change = given
    model = regression(optimum(x, y))
    train, targets = (features(model, *samples, 100, 0) for samples in ((x, y), (points, labels)))
    told = scores(train, targets, weighted=False).numpy()
    phi, aim = train.phi.numpy(), targets.phi.numpy()
    library = aim @ np.linalg.pinv(phi.T @ phi) @ phi.T * train.missing.numpy()
    for ours, theirs, truth in zip(told, library, change, strict=True):
        assert spearmanr(ours, theirs).statistic > 0.999
        assert spearmanr(ours, truth).statistic > 0.5
    slope = (told * change).sum() / (told**2).sum()
    assert slope > 3  # what a calibration would have to undo
    # Weights p (1 - p) that are all the same change nothing but one factor.
    flat = train._replace(missing=torch.full_like(train.missing, 0.5))
    ratio = scores(flat, targets) / scores(flat, targets, weighted=False)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


def test_features_are_those_of_the_checkpoint_s_own_weights(given: tuple) -> None:
    """A known fault elsewhere: gradients taken at the weights of another checkpoint of the list."""
    x, y, points, labels, _ = given
    first, second = regression(optimum(x, y)), regression(2 * optimum(x, y))
    alone = [trak([model], (x, y), (points, labels), 100, 0) for model in (first, second)]
    torch.testing.assert_close(trak([first, second], (x, y), (points, labels), 100, 0), (alone[0] + alone[1]) / 2)
    assert not torch.allclose(alone[0], alone[1])


def test_projections_keep_the_scores_about_what_they_are() -> None:
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(60, 8, generator=draws)
    y = torch.randint(0, 3, (60,), generator=draws)
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 40), torch.nn.Tanh())
    model = Classifier(body, 40, 3).eval()
    before = copy.deepcopy(model.state_dict())
    exact = trak([model], (x, y), (x[:5], y[:5]), dimension=10_000, seed=0)
    rough = trak([model], (x, y), (x[:5], y[:5]), dimension=400, seed=0)
    assert exact.shape == (5, 60)
    assert np.corrcoef(exact.flatten(), rough.flatten())[0, 1] > 0.8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_ridge_stands_for_an_early_stop() -> None:
    """Least squares by gradient descent for a time t, leaving one out, against Newton steps with the ridge n / t."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((80, 40)) * np.geomspace(1, 0.01, 40)
    y = x @ rng.standard_normal(40) + rng.standard_normal(80)

    def stopped(rows: np.ndarray, steps: int = 300, lr: float = 0.1) -> np.ndarray:
        w = np.zeros(40)
        for _ in range(steps):
            w = w - lr * x[rows].T @ (x[rows] @ w - y[rows]) / len(rows)
        return w

    everything = np.arange(80)
    w = stopped(everything)
    change = np.stack([x @ (w - stopped(np.delete(everything, i))) for i in range(80)], 1)

    def told(ridge: float) -> np.ndarray:
        h = x.T @ x + ridge * np.eye(40)
        return x @ np.linalg.solve(h, x.T * (y - x @ w))

    errors = [np.abs(told(ridge) - change).mean() for ridge in (0.0, early_stopping_ridge(80, 30.0), 1_000.0)]
    assert errors[1] < 0.5 * min(errors[0], errors[2])
    assert early_stopping_ridge(80, float("inf")) == 0
