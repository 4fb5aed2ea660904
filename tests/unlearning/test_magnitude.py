"""Channels in the order of their filters' norms, over all layers that are added to one."""

import numpy as np
import torch

from fedsim.models.channels import channel_groups
from tests.unlearning.digits_views import new_model
from unlearning.api.pruner import PruningTask
from unlearning.magnitude import MagnitudeConfig, by_l1, by_l2, ranked


def test_the_highest_score_comes_first() -> None:
    assert ranked(torch.tensor([1.0, 4.0, 3.0, 2.0])).tolist() == [0.75, 0, 0.25, 0.5]


def test_one_large_weight_counts_more_in_l2_than_in_l1() -> None:
    model = new_model("cnn", "none")
    conv = model.features[0]
    with torch.no_grad():
        conv.weight.fill_(0.1)
        conv.weight[1].fill_(0.2)  # the largest sum
        conv.weight[2, 0, 0, 0] = 1.0  # the largest square
    task = PruningTask(model, channel_groups(model, (1, 8, 8)), {})
    config, rng = MagnitudeConfig(name="l1"), np.random.default_rng(0)
    assert int(by_l1(task, config, rng)["0"].argmin()) == 1
    assert int(by_l2(task, config, rng)["0"].argmin()) == 2
