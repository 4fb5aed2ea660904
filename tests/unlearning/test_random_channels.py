"""A random order of each group's channels, the same from the same generator."""

import numpy as np

from fedsim.models.channels import channel_groups
from tests.unlearning.digits_views import new_model
from unlearning.api.pruner import PruningTask
from unlearning.random_channels import RandomConfig, order


def test_places_are_a_permutation_that_the_generator_decides() -> None:
    model = new_model("cnn", "none")
    task = PruningTask(model, channel_groups(model, (1, 8, 8)), {})
    first, same, other = (
        {name: places.tolist() for name, places in order(task, RandomConfig(name="random"), rng).items()}
        for rng in map(np.random.default_rng, (0, 0, 1))
    )
    assert first == same != other
    for name, group in task.groups.items():
        assert sorted(first[name]) == [place / group.channels for place in range(group.channels)]
