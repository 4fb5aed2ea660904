import gc
import random
import weakref

import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedsim.flower.internals import client_of, node_of, seeded_choice
from fedsim.flower.records import to_record


def test_looking_at_records_does_not_keep_them_in_memory() -> None:
    gc.disable()
    try:
        tensor = torch.zeros(3)
        alive = weakref.ref(tensor)
        records = RecordDict({"arrays": to_record({"w": tensor})})
        del tensor
        assert list(records.array_records) == ["arrays"]
        assert not records.metric_records
        assert not records.config_records
        del records
        assert alive() is None
    finally:
        gc.enable()


def test_views_of_records_are_still_flowers() -> None:
    records = RecordDict({"m": MetricRecord({"x": 1})})
    view = records.metric_records
    view["n"] = MetricRecord({"x": 2})
    assert list(records) == ["m", "n"]
    del view["m"]
    assert list(records) == ["n"]
    with pytest.raises(TypeError, match="MetricRecord"):
        view["c"] = ConfigRecord()
    with pytest.raises(TypeError):
        view[3] = MetricRecord()


def test_nodes_and_clients() -> None:
    assert [client_of(node_of(client)) for client in range(5)] == list(range(5))
    assert min(node_of(client) for client in range(5)) > 1  # 1 is the server


def test_pythons_generator_is_put_back() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    draws = []
    for _ in range(2):
        with seeded_choice(7):
            draws.append(random.random())
    assert draws[0] == draws[1]
    assert random.random() == expected
