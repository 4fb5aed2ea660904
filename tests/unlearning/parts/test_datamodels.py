"""Datamodels on planted functions, and on ridge regression, whose retrained models are known exactly."""

import numpy as np
import pytest

from unlearning.parts.datamodels import Datamodel, difference_of_means, draw_masks, fit, ridge, without_offset


def masks_of(units: int, share: float, models: int, seed: int = 0) -> np.ndarray:
    return np.stack([draw_masks(units, share, np.random.default_rng([seed, m])) for m in range(models)])


def test_a_planted_additive_function_is_recovered() -> None:
    rng = np.random.default_rng(0)
    effects, intercept = rng.standard_normal((20, 7)), rng.standard_normal(7)
    masks = masks_of(20, 0.5, 60)
    found = ridge(masks, intercept + masks @ effects, 1e-10)
    np.testing.assert_allclose(found.effects, effects, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.intercept, intercept, rtol=0, atol=1e-8)
    chosen = fit(masks, intercept + masks @ effects, intercept + masks @ effects, rng)
    assert chosen.scale == pytest.approx(1, abs=1e-3)  # of the smallest penalty that is tried
    np.testing.assert_allclose(chosen.predict(masks), intercept + masks @ effects, rtol=0, atol=0.01)


def test_differences_of_means_are_unbiased() -> None:
    rng = np.random.default_rng(1)
    effects, masks = rng.standard_normal((10, 30)), masks_of(10, 0.5, 4_000)
    outputs = masks @ effects + 0.5 * rng.standard_normal((4_000, 30))
    found = difference_of_means(masks, outputs)
    spread = np.sqrt(sum(
        np.stack([outputs[masks[:, u] == side].var(0, ddof=1) / (masks[:, u] == side).sum() for u in range(10)])
        for side in (0, 1)
    ))  # fmt: skip
    assert (np.abs(found.effects - effects) > 3 * spread).mean() <= 0.01


def test_a_unit_that_all_masks_treat_alike_has_no_effect() -> None:
    masks = masks_of(4, 0.5, 30)
    masks[:, 2] = True
    outputs = np.random.default_rng(2).standard_normal((30, 3))
    assert (difference_of_means(masks, outputs).effects[2] == 0).all()
    assert np.abs(ridge(masks, outputs, 1e-6).effects[2]).max() < 1e-12


def test_shifts_add_up() -> None:
    model = Datamodel(np.random.default_rng(3).standard_normal((9, 5)), np.zeros(5), scale=1.7)
    np.testing.assert_allclose(model.shift([1, 4, 6]), model.shift([1, 6]) + model.shift([4]), rtol=0, atol=1e-12)
    assert (model.shift([]) == 0).all()
    everything = model.predict(np.ones((1, 9), bool))[0]
    left = model.predict(np.array([[unit != 4 for unit in range(9)]]))[0]
    np.testing.assert_allclose(1.7 * (everything - left), model.shift([4]), rtol=0, atol=1e-12)


def test_the_scale_undoes_what_a_penalty_shrinks() -> None:
    """Few noisy models: the penalty shrinks the effects, and the scale brings their mean size back."""
    rng = np.random.default_rng(4)
    effects, masks = rng.standard_normal((60, 40)), masks_of(60, 0.9, 150)
    noisy = masks @ effects + 3 * rng.standard_normal((150, 40))
    found = fit(masks, noisy, noisy, rng)
    slope = float((found.effects * effects).sum() / (found.effects**2).sum())  # of the truth against what is told
    assert slope > 1.1
    assert abs(found.scale - slope) < 0.5 * (slope - 1)


@pytest.mark.parametrize("seed", range(3))
def test_retrained_ridge_regressions_are_predicted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, units = rng.standard_normal((400, 30)), np.arange(400) // 20
    y = x @ rng.standard_normal(30) + 0.5 * rng.standard_normal(400)
    points = rng.standard_normal((50, 30))

    def outputs(kept: np.ndarray) -> np.ndarray:
        weights = np.linalg.solve(x[kept].T @ x[kept] + np.eye(30), x[kept].T @ y[kept])
        return points @ weights

    masks = masks_of(20, 0.9, 200, seed)
    told = np.stack([outputs(mask[units]) for mask in masks])
    model = fit(masks, told, told, rng)
    for gone in range(3):
        change = outputs(np.ones(400, bool)) - outputs(units != gone)
        error = model.shift([gone]) - change
        assert np.sqrt((error**2).mean()) < 0.2 * np.sqrt((change**2).mean())  # second order in the unit's size


def test_redundant_samples_are_underrated() -> None:
    """Additivity is of first order: of three copies, each covers for the others."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((40, 30)), rng.standard_normal(40)
    x[:3], y[:3] = x[0], y[0] + 3

    def output(kept: np.ndarray) -> float:
        return float(x[0] @ np.linalg.solve(x[kept].T @ x[kept] + np.eye(30), x[kept].T @ y[kept]))

    rows = np.arange(40)
    truth = output(rows >= 0) - output(rows > 2)
    alone = sum(output(rows >= 0) - output(rows != i) for i in range(3))
    assert abs(alone) < 0.8 * abs(truth)
    grouped = np.concatenate([np.zeros(3, int), np.arange(1, 38)])
    masks = masks_of(38, 0.9, 1_000)
    told = np.array([[output(mask[grouped])] for mask in masks])
    found = fit(masks, told, told, rng)
    assert abs(found.shift([0])[0] - truth) < abs(alone - truth)  # as one unit they are told better


def test_masks_keep_a_share_and_one_unit_at_least() -> None:
    masks = masks_of(30, 0.9, 2_000)
    assert masks.mean() == pytest.approx(0.9, abs=5 * np.sqrt(0.09 / 60_000))
    assert masks_of(3, 0.05, 500).any(1).all()
    assert len(np.unique(masks.sum(1))) > 3


def test_a_softmax_does_not_see_an_offset() -> None:
    logits = np.random.default_rng(6).standard_normal((4, 10))
    np.testing.assert_allclose(without_offset(logits + 3.0), without_offset(logits), rtol=0, atol=1e-12)
    assert np.abs(without_offset(logits).sum(1)).max() < 1e-12


def test_too_few_models_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 5 models"):
        fit(masks_of(3, 0.5, 4), np.zeros((4, 2)), np.zeros((4, 2)), np.random.default_rng(0))
