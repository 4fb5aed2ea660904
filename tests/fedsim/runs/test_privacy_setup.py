"""Targets of privacy are met, or refused in one line."""

import pytest

from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.runs.simulation import Simulation
from tests.fedsim.privacy.one_round import TINY


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"privacy.example": {"noise_multiplier": 1.0, "delta": 0.5}},
         r"privacy\.example\.delta: must be below one over the \d+ samples of the largest client \(.*\), got 0\.5"),
        ({"privacy.example": {"noise_multiplier": 1e-200}}, r"privacy\.example: noise_multiplier 1e-200 protects"),
        ({"privacy.client": {"noise_multiplier": 1e-200}}, r"privacy\.client: noise_multiplier 1e-200 protects"),
        ({"privacy.client": {"noise_multiplier": 1e200}}, r"noise_multiplier: must be .* 1"),
        ({"privacy.client": {"target_epsilon": 1e300}}, r"privacy\.client\.target_epsilon: must be"),
        ({"strategy": {"name": "aggregate", "mechanism": "gaussian", "delta": 0.5}}, r"strategy\.delta: must be below"),
        ({"strategy": {"name": "aggregate", "epsilon": 1e-300}}, r"strategy\.epsilon: must be"),
    ],
    ids=str,
)  # fmt: skip
def test_what_promises_nothing_is_refused_in_one_line(changes, line):
    with pytest.raises(FedsimError, match=line):
        Simulation(resolve(TINY, changes))


@pytest.mark.parametrize("target", [1e-300, 1e-5, 1e5])
def test_any_other_target_is_met(target):
    config = Simulation(resolve(TINY, {"privacy.client": {"target_epsilon": target, "delta": 1e-3}})).config
    assert config.privacy.client is not None
    assert 0 < config.privacy.client.noise < 1e6
