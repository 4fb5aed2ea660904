"""FedPer."""

import torch

from tests.strategies.small_runs import finished


def test_fedper_trains_head_and_features_together():
    """One client, one epoch: it is plain training."""
    one = {"clients": 1, "rounds": 1}
    joint, plain = finished("fedper", one), finished("fedavg", one)
    for name, value in {**joint.tensors, **joint.personal(0)}.items():
        assert torch.equal(value, plain.tensors[name])
