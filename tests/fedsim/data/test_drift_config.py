"""How options for drift may be written."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.data.drift_config import FeatureShiftConfig, LabelNoiseConfig


@pytest.mark.parametrize("given", [[0.1, 0.3], (0.1, 0.3), {"low": 0.1, "high": 0.3}])
def test_a_pair_is_a_range(given: Any) -> None:
    found = LabelNoiseConfig.model_validate(given)
    assert (found.low, found.high) == (0.1, 0.3)


def test_a_number_is_every_clients_share() -> None:
    found = LabelNoiseConfig.model_validate(0.2)
    assert (found.low, found.high) == (0.2, 0.2)
    assert FeatureShiftConfig.model_validate({"rotation": 90}).rotation == (90.0,)


@pytest.mark.parametrize("bad", [1, [0.3, 0.1], -0.1, [0.1, 0.2, 0.3], True])
def test_other_shares_are_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        LabelNoiseConfig.model_validate(bad)
