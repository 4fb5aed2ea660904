"""Models that are trained side by side are those of the runs of their seeds, up to rounding, or are trained alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData, federate
from fedsim.engine.select import choose_engine
from fedsim.federated.registry import describe, load_strategy
from fedsim.flower.records import Tensors
from tests.strategies.small_runs import configure
from unlearning.pipeline.ensemble import member_config
from unlearning.pipeline.members import (
    side_by_side_gain,
    trained_side_by_side,
    trained_tensors,
    with_common_data,
)

SEEDS = (3, 4, 5)
ALONE = {
    "aggregate", "class_means", "fedetf", "fedewc", "fedlabel", "fedloge", "fedlwf", "fixmatch", "scaffold", "target",
}  # fmt: skip
"""Methods whose runs differ in more than the model: in what the server sends, or in what clients see."""
METHODS = {load_strategy(name).client: name for name in sorted(describe("strategies"), reverse=True)}.values()
"""One of each client half."""


def recipes(method: str, changes: dict[str, object]) -> tuple[list[RunConfig], list[FederatedData]]:
    config = member_config(choose_engine(configure(method, {"rounds": 2, "cohort": 3, **changes}))[0])
    data = federate(config.data, config.clients, 0)
    left_out = [data.partition[1][:seed] for seed in SEEDS]
    return [config.model_copy(update={"seed": s}) for s in SEEDS], with_common_data(data, list(map(np.sort, left_out)))


def assert_alike(together: Sequence[Tensors], alone: Sequence[Tensors], tolerance: float = 1e-4) -> None:
    for ours, own in zip(together, alone, strict=True):
        assert ours.keys() == own.keys()
        for name, value in own.items():
            assert (ours[name] - value).abs().max() <= tolerance * value.abs().max().clamp_min(1), name


def alone(configs: Sequence[RunConfig], data: Sequence[FederatedData]) -> list[Tensors]:
    return [trained_tensors(*pair) for pair in zip(configs, data, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_the_weights_of_its_runs_or_is_not_trained_side_by_side(method: str) -> None:
    configs, data = recipes(method, {})
    gain = side_by_side_gain(configs[:2], data[:2])
    assert (gain == 0) == (method in ALONE)
    if gain:
        assert_alike(trained_side_by_side(configs, data), alone(configs, data))


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_side_by_side_they_come_to_the_weights_of_their_runs(vectorize: str) -> None:
    """With batch norm, partial cohorts, and rows that each leaves out."""
    configs, data = recipes("fedavg", {"training.vectorize": vectorize, "data.augment": "flip"})
    together = trained_side_by_side(configs, data)
    assert_alike(together, alone(configs, data))
    for ours, among_two in zip(together, trained_side_by_side(configs[:2], data[:2]), strict=False):
        assert all(torch.equal(value, among_two[name]) for name, value in ours.items())


def test_models_with_dropout_are_trained_alone() -> None:
    configs, data = recipes("fedavg", {"model.dropout": 0.3})
    assert side_by_side_gain(configs[:2], data[:2]) == 0


def test_rows_that_all_members_leave_out_are_blank_and_no_partition_has_a_row_that_its_member_leaves_out() -> None:
    configs, data = recipes("fedavg", {})
    whole = federate(configs[0].data, configs[0].clients, 0)
    for seed, own in zip(SEEDS, data, strict=True):
        assert own.dataset is data[0].dataset
        assert np.isin(whole.partition[1][:seed], own.partition.indices).sum() == 0
    assert not data[0].dataset.x_train[whole.partition[1][: min(SEEDS)]].any()
    assert data[0].dataset.x_train[whole.partition[1][min(SEEDS) : max(SEEDS)]].any()
