"""Local training."""

from flwr.app import ArrayRecord, ConfigRecord

from tests.strategies.small_runs import assert_same_bits, begin, finished


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
