"""Each client answers for itself, or one carries the weighted mean of all that are finite."""

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedsim.engine.answers import Answers, weighted_mean
from fedsim.engine.reply import Reply
from fedsim.federated.types import State, Update
from fedsim.flower.records import to_tensors
from fedsim.flower.wire import ARRAYS, METRICS, OWN_ARRAYS

EXAMPLES = np.array([10.0, 30.0, 20.0])
METRIC = {"loss": np.array([1.0, 2.0, 3.0])}


def update() -> Update:
    """Three clients, the last of which has diverged."""
    sent = {"w": torch.tensor([[1.0, 2.0], [5.0, 6.0], [torch.nan, 0.0]])}
    steps = torch.ones(3)
    counted = torch.ones(3, 1, dtype=torch.float64)
    return Update(sent, State({}, {}), torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64), steps, counted, counted)


def values(content: RecordDict | None, key: str = ARRAYS) -> list[float]:
    assert content is not None
    found: list[float] = to_tensors(content.array_records[key])["w"].tolist()
    return found


def test_each_for_itself() -> None:
    answers = Answers(summed=False, own_updates=False)
    replies = answers.of([4, 5, 6], update(), EXAMPLES, METRIC)
    assert values(replies[4].content) == [1, 2]
    assert replies[6] == Reply(None, "its update holds NaN or Inf")
    assert replies[5].content is not None
    assert dict(replies[5].content.metric_records[METRICS]) == {"loss": 2.0, "num-examples": 30, "weight": 3.0}


@pytest.mark.parametrize("own", [False, True])
def test_the_first_good_one_carries_the_mean_of_the_good_ones(own: bool) -> None:
    answers = Answers(summed=True, own_updates=own)
    replies = answers.of([4, 5, 6], update(), EXAMPLES, METRIC)
    answers.carry_sum(replies.values())
    assert values(replies[4].content) == [4, 5]  # (1 + 3 * 5) / 4, (2 + 3 * 6) / 4
    assert replies[4].content is not None
    assert dict(replies[4].content.metric_records[METRICS]) == {"loss": 1.75, "num-examples": 40, "weight": 4}
    assert replies[5].content is not None
    assert (OWN_ARRAYS in replies[5].content) == own
    assert ARRAYS not in replies[5].content
    assert replies[6].error


def test_weights_of_zero_make_the_first_the_mean() -> None:
    tensors = {"w": torch.tensor([[1.0], [3.0]]), "n": torch.tensor([2, 4])}
    assert weighted_mean(tensors, torch.zeros(2))["w"].tolist() == [1]
    mean = weighted_mean(tensors, torch.tensor([1.0, 3.0]))
    assert (mean["w"].item(), mean["n"].item(), mean["n"].dtype) == (2.5, 3.5, torch.float64)
