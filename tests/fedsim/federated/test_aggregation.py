"""Weighted means."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given

from fedsim.federated.aggregation import WeightedMean

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
