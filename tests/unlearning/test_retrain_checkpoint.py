"""Retraining from the last checkpoint before a client came is retraining from scratch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unlearning.federations import apply, federation, train
from unlearning.api.needs import Needs
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.source import Source


def late_client(source: Source) -> int:
    """Return the client whose first round is the last."""
    return max(range(6), key=lambda client: federation(source, client).first_round() % 5)  # 5: in no round


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"history": {"keep": "norms", "every": 2}},
        {"strategy": "fedavgm"},  # a server with momentum
        {"strategy": "ditto"},  # clients with a state of their own
        {"faults.error": 0.2, "seed": 1},
    ],
)
def test_retraining_from_a_checkpoint_is_retraining_from_scratch(tmp_path: Path, options: dict[str, Any]) -> None:
    source = train(tmp_path, **options)
    leaving = late_client(source)
    fed = federation(source, leaving, needs=Needs(history=True, clients=True))
    assert fed.first_round() > 1
    tensors = apply("retrain_checkpoint", fed)
    oracle = retrained(source, fed.left, source.config.seed, "oracles")
    assert all(torch.equal(value, tensors[name]) for name, value in oracle.model.state_dict().items())
    rounds = 4 if source.config.strategy.name == "ditto" else None
    assert fed.costs()["rounds"] in ({rounds} if rounds else range(4))
