"""The audit detects missing protection, and does not refute valid claims."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.privacy.accountant import gaussian_epsilon
from fedsim.privacy.ledger import Ledger
from fedsim.runs.privacy_audit import Audit, audit_run, lower_bound
from fedsim.runs.simulation import Simulation

TINY = {
    "clients": 6, "rounds": 3, "eval_every": 100, "model": {"name": "mlp", "hidden": [16]},
    "data": {"max_per_class": 12}, "training": {"epochs": 1, "vectorize": "never"},
}  # fmt: skip


def finished(privacy: dict[str, Any], **changes: Any) -> tuple[RunConfig, Ledger]:
    simulation = Simulation(resolve(TINY, {"privacy": privacy}, changes))
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(3):
        simulation.step(state, engine)
    return simulation.config, state.ledger


def audit(privacy: dict[str, Any], canaries: int = 4000, **changes: Any) -> Audit:
    (found,) = audit_run(*finished(privacy, **changes), canaries=canaries)
    return found


def test_the_bound_is_that_of_clopper_and_pearson_by_hand():
    # 0 of 300 false alarms: the rate is below 1 - 0.025^(1/300); 300 of 300 hits: above 0.025^(1/300).
    inside = np.arange(800) % 2 == 0
    edge = 0.025 ** (1 / 300)
    assert lower_bound(inside.astype(float), inside, 1e-3) == pytest.approx(math.log((edge - 1e-3) / (1 - edge)))
    assert lower_bound(-inside.astype(float), inside, 1e-3) == 0


def test_the_bound_holds_for_a_mechanism_whose_epsilon_is_known():
    """Canaries with Gaussian noise of mu = 1 and 2: hardly ever above the truth, and not far below."""
    rng = np.random.default_rng(0)
    for mu in (1.0, 2.0):
        bounds = []
        for _ in range(40):
            inside = rng.random(20_000) < 0.3
            bounds.append(lower_bound(mu * inside + rng.normal(size=20_000), inside, 1e-3))
        truth = gaussian_epsilon(mu, 1e-3)
        assert np.count_nonzero(np.array(bounds) > truth) <= 4  # 5 % of them, at most, and chance
        assert np.mean(bounds) > 0.5 * truth
    nothing = [lower_bound(rng.normal(size=500), rng.random(500) < 0.5, 1e-5) for _ in range(50)]
    assert np.count_nonzero(nothing) <= 6


CLIENT = {"client": {"noise_multiplier": 1.0, "clip_norm": 0.5}}
EXAMPLE = {"example": {"noise_multiplier": 1.0, "max_grad_norm": 0.5}}


@pytest.mark.parametrize(
    ("privacy", "changes"),
    [
        (CLIENT, {}),
        ({"client": {**CLIENT["client"], "sampling": "fixed"}}, {"cohort": 3}),
        ({"client": {**CLIENT["client"], "clipping": "adaptive", "quantile_noise": 2.0}}, {}),
        (EXAMPLE, {"training.batch_size": 99}),  # one batch, without sampling
        pytest.param(EXAMPLE, {}, marks=pytest.mark.slow),
    ],
)
def test_what_is_claimed_is_not_refuted(privacy, changes):
    found = audit(privacy, **changes)
    assert found.lower <= found.claimed < math.inf
    assert not found.refuted
    assert found.limit > 3
    if "cohort" not in changes:
        assert found.lower > 0.1  # it sees the canaries


def no_noise(value: torch.Tensor, std: float, generator: torch.Generator) -> torch.Tensor:
    return torch.zeros_like(value)


@pytest.mark.parametrize(
    ("privacy", "where"),
    [(CLIENT, "fedsim.privacy.central.gaussian_like"), (EXAMPLE, "fedsim.training.dp_sgd.gaussian_like")],
)
def test_noise_that_is_switched_off_underneath_is_caught(privacy, where, monkeypatch):
    (level,) = privacy
    privacy = {level: {**privacy[level], "noise_multiplier": 4.0}}
    changes = {"training.batch_size": 99}
    assert not audit(privacy, **changes).refuted
    monkeypatch.setattr(where, no_noise)
    broken = audit(privacy, **changes)
    assert broken.refuted
    assert 3 < broken.lower <= broken.limit


def test_a_clipping_that_does_not_clip_is_caught(monkeypatch):
    privacy = {"client": {**CLIENT["client"], "noise_multiplier": 4.0}}
    monkeypatch.setattr("fedsim.privacy.central.clip_factors", lambda norms, bound: torch.ones_like(norms))
    assert audit(privacy).refuted


def test_a_run_without_privacy_has_nothing_to_audit():
    with pytest.raises(FedsimError, match="nothing to audit"):
        audit({})
