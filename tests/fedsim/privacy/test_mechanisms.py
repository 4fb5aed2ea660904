"""Noise from the operating system."""

import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.privacy.mechanisms import gaussian_like
from fedsim.runs.simulation import Simulation
from tests.fedsim.privacy.one_round import LEVELS, TINY, correlation, released


def test_secure_noise_repeats_nothing_and_is_gaussian():
    draw = gaussian_like(torch.zeros(400, 250), 3.0, None).flatten()
    assert float(draw.std()) == pytest.approx(3.0, rel=0.01)
    assert float((draw.abs() > 6).float().mean()) == pytest.approx(0.0455, rel=0.06)
    assert abs(correlation(draw[:-1].double(), draw[1:].double())) < 4.5 / 100_000**0.5
    assert gaussian_like(torch.zeros(0), 3.0, None).shape == (0,)
    for level in LEVELS:
        secure = [released(level, 1.0, **{"privacy.noise": "secure"}) for _ in range(2)]
        assert abs(correlation(*(one - released(level, 0.0) for one in secure))) < 4.5 / len(secure[0]) ** 0.5


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"history.keep": "updates"}, r"history\.keep: must be none with privacy\.noise=secure"),
        ({"strategy": "aggregate", "data.name": "breast_cancer"}, r"privacy\.noise: bags' means .* must be seeded"),
    ],
)
def test_what_needs_repeatable_noise_is_refused_in_one_line(changes, line):
    with pytest.raises(FedsimError, match=line):
        Simulation(resolve(TINY, {"privacy.noise": "secure", **changes}))
