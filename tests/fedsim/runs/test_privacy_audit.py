"""The audit finds what is not there, and does not find what is."""

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
from fedsim.runs.privacy_audit import Audit, audit_run, lower_bound, p_value
from fedsim.runs.simulation import Simulation

TINY = {
    "clients": 6, "rounds": 3, "eval_every": 100, "model": {"name": "mlp", "hidden": [16]},
    "data": {"max_per_class": 12}, "training": {"epochs": 1, "cohort": "sequential"},
}  # fmt: skip


def finished(privacy: dict[str, Any], **changes: Any) -> tuple[RunConfig, Ledger]:
    simulation = Simulation(resolve(TINY, {"privacy": privacy}, changes))
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(3):
        simulation.step(state, engine)
    return simulation.config, state.ledger


def audit(privacy: dict[str, Any], canaries: int = 400, **changes: Any) -> Audit:
    (found,) = audit_run(*finished(privacy, **changes), canaries=canaries)
    return found


def test_the_p_value_is_exact_without_delta_and_grows_with_it():
    # epsilon 0: coins. 8 of 10 right or better: (45 + 10 + 1) / 1024.
    assert p_value(10, 10, 8, 0.0, 0.0) == pytest.approx(56 / 1024)
    # epsilon log 3: each guess is right with probability 3/4.
    assert p_value(10, 10, 10, math.log(3), 0.0) == pytest.approx(0.75**10)
    # With delta, one step: f(v - 1) - f(v) = P[W = v - 1]; here the steepest.
    steepest = max(sum(math.comb(10, k) for k in range(8 - i, 8)) / 1024 / i for i in range(1, 9))
    assert p_value(10, 10, 8, 0.0, 1e-3) == pytest.approx(56 / 1024 + 2 * 10 * 1e-3 * steepest)


def test_the_bound_holds_for_a_mechanism_whose_epsilon_is_known():
    """Canaries with Gaussian noise of mu = 1 and 2: never above the truth, and well above nothing."""
    rng = np.random.default_rng(0)
    for mu in (1.0, 2.0):
        bounds = []
        for _ in range(20):
            inside = rng.random(2000) < 0.5
            bounds.append(lower_bound(mu * inside + rng.normal(size=2000), inside, 1e-5))
        assert max(bounds) <= gaussian_epsilon(mu, 1e-5)
        assert np.mean(bounds) > mu / 2
    nothing = [lower_bound(rng.normal(size=500), rng.random(500) < 0.5, 1e-5) for _ in range(50)]
    assert np.count_nonzero(nothing) <= 6  # 5 % of them, at most, and chance


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
