"""Methods whose clients keep a part of the model: which part, and that it never leaves them."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord

from fedsim.errors import FedsimError
from tests.strategies.small_runs import assert_same_bits, begin, finished, names_sent

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


def test_local_training_is_each_client_by_itself():
    """What a client becomes does not depend on who else there is."""
    whole, some = finished("local", {"rounds": 2}), begin("local", {"rounds": 2})
    some.engine.cohort = [1]
    for server_round in (1, 2):
        messages = some.simulation.server.messages(
            "train", server_round, ArrayRecord(), ConfigRecord({"reply": "sum"}),
            some.engine.get_node_ids(),
        )  # fmt: skip
        list(some.engine.stream(messages))
        some.engine.states.commit()
    assert_same_bits(some.personal(1), whole.personal(1))


def test_fedper_trains_head_and_features_together():
    """One client, one epoch: it is plain training."""
    one = {"clients": 1, "rounds": 1}
    joint, plain = finished("fedper", one), finished("fedavg", one)
    for name, value in {**joint.tensors, **joint.personal(0)}.items():
        assert torch.equal(value, plain.tensors[name])


def test_fedbn_needs_batch_norm():
    with pytest.raises(FedsimError, match=r"model\.norm: fedbn keeps batch norm with the clients"):
        begin("fedbn", {"model.norm": "group"})
