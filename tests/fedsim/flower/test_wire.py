"""What messages and replies are read for, with and without the optional parts."""

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsim.flower import wire


def test_a_message_tells_its_round_and_its_broadcast() -> None:
    content = RecordDict({wire.CONFIG: ConfigRecord({wire.SERVER_ROUND: 3, wire.BROADCAST: "id"})})
    assert (wire.round_of(content), wire.broadcast_of(content)) == (3, "id")
    assert wire.told_in(content) is content[wire.CONFIG]
    assert wire.broadcast_of(RecordDict({wire.CONFIG: ConfigRecord({wire.SERVER_ROUND: 3})})) is None
    assert wire.broadcast_of(RecordDict()) is None
    assert len(wire.arrays_in(content)) == 0


def test_an_update_is_found_alone_and_beside_a_sum() -> None:
    arrays, total = ArrayRecord(), ArrayRecord()
    metrics, of_sum = MetricRecord({"loss": 1.0}), MetricRecord({"loss": 2.0})
    alone = wire.own_update(RecordDict({wire.ARRAYS: arrays, wire.METRICS: metrics}))
    beside = wire.own_update(
        RecordDict({wire.ARRAYS: total, wire.METRICS: of_sum, wire.OWN_ARRAYS: arrays, wire.OWN_METRICS: metrics})
    )
    for update in (alone, beside):
        assert update[wire.ARRAYS] is arrays
        assert update[wire.METRICS] is metrics
