"""The linear datamodeling score on planted effects."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from unlearning.evaluation.lds import lds


@pytest.fixture
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    effects, masks = rng.standard_normal((12, 20)), rng.random((80, 20)) < 0.9
    return effects, masks, masks @ effects.T


def test_true_effects_have_all_of_it_and_their_opposite_none(planted: tuple) -> None:
    effects, masks, margins = planted
    rng = np.random.default_rng(1)
    assert lds(effects, masks, margins, rng).value == pytest.approx(1)
    assert lds(-effects, masks, margins, rng).value == pytest.approx(-1)
    assert lds(np.zeros_like(effects), masks, margins, rng).value == 0
    assert abs(lds(rng.standard_normal(effects.shape), masks, margins, rng).value) < 0.2


def test_it_is_the_mean_of_spearman_s_correlations(planted: tuple) -> None:
    effects, masks, margins = planted
    noisy = margins + np.random.default_rng(2).standard_normal(margins.shape)
    told = lds(effects, masks, noisy, np.random.default_rng(3))
    by_hand = np.mean([spearmanr(masks @ e, m).statistic for e, m in zip(effects, noisy.T, strict=True)])
    assert told.value == pytest.approx(by_hand)
    assert -1 < told.low < told.value < told.high < 1
    assert told.models == 80


def test_too_few_models_are_refused(planted: tuple) -> None:
    effects, masks, margins = planted
    with pytest.raises(ValueError, match="needs 3 models"):
        lds(effects, masks[:2], margins[:2], np.random.default_rng(0))
