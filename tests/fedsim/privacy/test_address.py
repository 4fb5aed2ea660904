"""Noise has an address: what differs has other noise, and the same release has the same."""

from typing import Any

import numpy as np
import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.privacy.address import digest
from fedsim.runs.simulation import Simulation
from tests.fedsim.privacy.one_round import LEVELS, TINY, Floats, correlation, released


def noise_of(level: str, noise: float = 1.0, **changes: Any) -> torch.Tensor:
    """Return the noise of a release: what it differs by from the same without."""
    return released(level, noise, **changes) - released(level, 0.0, **changes)


@pytest.mark.parametrize("level", LEVELS)
def test_two_releases_with_different_noise_do_not_give_the_exact_value_away(level):
    one, other = released(level, 1.0), released(level, 2.0)
    assert torch.equal(one, released(level, 1.0))  # a run repeats
    exact = released(level, 0.0)
    guess = 2 * one - other  # noise of one address would cancel
    assert float((guess - exact).std()) > 2 * float((one - exact).std())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "changes",
    [
        {"training.lr": 0.05}, {"training.momentum": 0.5}, {"strategy": "fedprox"}, {"seed": 1},
        {"data.max_per_class": 8}, {"training.weight_decay": 1e-3},
    ],
    ids=str,
)  # fmt: skip
def test_two_recipes_share_no_noise(level, changes):
    mine, theirs = noise_of(level), noise_of(level, **changes)
    assert abs(correlation(mine, theirs)) < 4.5 / len(mine) ** 0.5


def test_what_changes_no_release_changes_no_noise():
    mine = released("example", 1.0)
    for changes in ({"rounds": 3}, {"name": "other"}, {"history.keep": "updates"}, {"eval_every": 1}):
        assert torch.equal(mine, released("example", 1.0, **changes))


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_recipe_on_other_data_has_noise_of_its_own(level):
    """As an oracle trained without some samples has, beside the run itself."""
    key = f"privacy.{level}.noise_multiplier"

    def after(noise: float, *, all_there: bool) -> torch.Tensor:
        config = resolve(TINY, LEVELS[level], {key: noise})
        whole = Simulation(config).data
        left = whole if all_there else whole.without(np.concatenate([whole.partition[c][:1] for c in range(3)]))
        simulation = Simulation(config, data=left)
        state = simulation.begin()
        simulation.step(state, simulation.engine())
        return torch.cat([value.flatten() for value in state.tensors.values()]).double()

    mine, theirs = (after(1.0, all_there=there) - after(0.0, all_there=there) for there in (True, False))
    assert abs(correlation(mine, theirs)) < 4.5 / len(mine) ** 0.5


def test_bags_share_no_noise_but_of_the_same_release():
    bags = {
        "strategy": "aggregate", "data": {"name": "diabetes", "partition": "iid"}, "model": "linear", "clients": 3,
        "strategy.bag_size": 1,
    }  # fmt: skip

    def means(**changes: Any) -> Floats:
        return np.asarray(Simulation(resolve(bags, changes)).data.dataset.y_train, np.float64)

    exact = means(**{"strategy.epsilon": 1e6})  # and clipped
    one, other = means(**{"strategy.epsilon": 1.0}), means(**{"strategy.epsilon": 2.0})
    assert np.std(2 * other - one - exact) > np.std(one - exact)  # scales 1 and 1/2 would cancel
    assert abs(np.corrcoef(one - exact, other - exact)[0, 1]) < 4.5 / len(one) ** 0.5
    assert np.array_equal(one, means(**{"strategy.epsilon": 1.0, "training.lr": 0.01}))  # released once


def test_digests_tell_apart_what_differs():
    a, b = torch.zeros(2, 3), torch.zeros(3, 2)
    several = [(a,), (b,), (a.double(),), (a, a), ({"a": a},), ({"b": a},), ("a",), ("a", ""), (1,), ({},)]
    assert len({digest(*parts) for parts in several}) == len(several)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a})
    assert digest(torch.zeros(2, dtype=torch.bfloat16)) == digest(torch.zeros(2, dtype=torch.bfloat16))
