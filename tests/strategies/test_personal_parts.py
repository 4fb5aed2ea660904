"""Methods whose clients keep a part of the model: which part, and that it never leaves them."""

import pytest
import torch

from tests.strategies.small_runs import begin, names_sent

NORM = {"features.2.weight", "features.2.bias", "features.2.running_mean", "features.2.running_var",
        "features.2.num_batches_tracked"}  # fmt: skip
HEAD = {"classifier.weight", "classifier.bias"}
EVERY = NORM | HEAD | {"features.1.weight", "features.1.bias"}
KEPT = {"fedrep": HEAD, "fedper": HEAD, "fedbn": NORM, "local": EVERY}


@pytest.mark.parametrize("method", KEPT)
def test_each_client_keeps_its_part_and_sends_the_rest(method):
    run = begin(method)
    assert names_sent(run) == EVERY - KEPT[method]
    parts = [run.personal(client) for client in range(4)]
    assert all(set(part) == KEPT[method] for part in parts)
    assert not torch.equal(*(part[min(KEPT[method])] for part in parts[:2]))
