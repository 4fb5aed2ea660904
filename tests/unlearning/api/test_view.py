"""Batches of a view."""

import numpy as np
import pytest
import torch

from fedsim.data.transforms import normalize
from unlearning.api.view import View


def test_batches_are_normalised_and_all_there() -> None:
    x = torch.arange(7 * 4, dtype=torch.uint8).reshape(7, 1, 2, 2)
    view = View(x, torch.arange(7), mean=(0.5,), std=(0.25,))
    wanted = normalize(x, (0.5,), (0.25,))
    parts = list(view.batches(3, None))
    assert [len(part) for part, _ in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part for part, _ in parts]), wanted)
    assert torch.equal(view.all()[0], wanted)
    rng = np.random.default_rng(0)
    shuffled = [torch.cat([y for _, y in view.batches(3, rng) if y is not None]) for _ in range(2)]
    assert [sorted(order.tolist()) for order in shuffled] == [list(range(7))] * 2
    assert not torch.equal(shuffled[0], shuffled[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_are_in_the_models_format_and_labels_may_lack(dtype: torch.dtype) -> None:
    ((x, y),) = View(torch.ones(2, 3), dtype=dtype).batches(5, None)
    assert x.dtype is dtype
    assert y is None
