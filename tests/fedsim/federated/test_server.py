"""How a server adds up what it gets."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from fedsim.errors import FedsimError
from fedsim.federated.aggregation import WeightedMean
from tests.strategies.small_runs import begin

values = hnp.arrays(np.float32, (5, 3), elements=st.floats(-1000, 1000, width=32))
weights = st.lists(st.floats(0, 1000).filter(lambda w: w == 0 or w > 1e-3), min_size=5, max_size=5).filter(any)


def _mean(rows, shares):
    mean = WeightedMean()
    for row, weight in zip(rows, shares, strict=True):
        mean.add({"w": torch.from_numpy(row)}, weight)
    assert mean.weight == sum(shares)
    return mean.result()["w"]


@given(values, weights)
def test_it_is_the_weighted_mean(rows, shares):
    expected = np.average(rows.astype(np.float64), axis=0, weights=shares)
    size = np.abs(rows[np.array(shares) > 0]).max(0)
    bound = 1e-6 * size + np.finfo(np.float32).smallest_subnormal  # below the normal numbers steps have a least size
    assert (np.abs(_mean(rows, shares).numpy() - expected) <= bound).all()


@given(hnp.arrays(np.float32, 3, elements=st.floats(-1000, 1000, width=32)), weights)
def test_what_all_have_in_common_stays_exactly_what_it_is(row, shares):
    assert np.array_equal(_mean([row.copy() for _ in shares], shares).numpy(), row)


def test_summands_are_not_written_to_and_integers_are_rounded_once():
    tensors = [
        {"w": torch.tensor([float(k)]), "steps": torch.tensor(k), "frozen": torch.tensor(0.1)} for k in (1, 2, 4)
    ]
    mean = WeightedMean()
    for each in tensors:
        mean.add(each, 1.0)
    assert [each["w"].item() for each in tensors] == [1.0, 2.0, 4.0]
    result = mean.result()
    assert result["steps"].dtype == torch.int64
    assert result["steps"] == 2  # 7/3; rounded after each summand it would be 3
    assert torch.equal(result["frozen"], torch.tensor(0.1))
    assert torch.allclose(result["w"], torch.tensor([7 / 3]))


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "krum", "qfedavg", "fednova", "scaffold"])
def test_the_server_goes_as_far_as_it_is_told(method):
    """w + lr (aggregate - w) of parameters, to the end of batch norm's statistics."""
    runs = {lr: begin(method, {"server.lr": lr, "clients": 8}) for lr in (1.0, 0.25)}
    start = runs[1.0].simulation.server.initial()
    for run in runs.values():
        run.advance(1)
    params = runs[1.0].simulation.server.first.params
    for name, whole in runs[1.0].tensors.items():
        expected = start[name] + 0.25 * (whole - start[name]) if name in params else whole
        torch.testing.assert_close(runs[0.25].tensors[name], expected)


def test_a_server_step_has_a_schedule_of_its_own():
    steps = {"server.schedule": {"name": "steps", "at": [1], "multiply": 1e-6}}
    run = begin("fedavg", steps)
    run.advance(1)
    first = {name: value.clone() for name, value in run.tensors.items()}
    run.advance(1)
    for name in run.simulation.server.first.params:
        torch.testing.assert_close(run.tensors[name], first[name], rtol=0, atol=1e-5)


def test_a_server_with_steps_of_its_own_takes_no_other():
    with pytest.raises(FedsimError, match=r"server.lr: the server of pfedhn takes steps of its own"):
        begin("pfedhn", {"server.lr": 0.5})
