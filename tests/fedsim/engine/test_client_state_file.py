"""Files of clients' states."""

import tempfile
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.engine.client_state_file import read_records, write_records
from fedsim.engine.states import ClientStates
from fedsim.errors import FedsimError
from fedsim.flower.records import to_record
from tests.fedsim.engine.small_states import number_of, state


def test_unchanged_states_are_linked_not_written_again(tmp_path):
    states = ClientStates()
    states.stage(0, state(0))
    states.stage(1, state(1))
    states.commit()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    assert len(states.write_committed(tmp_path / "a")) == 2
    states.moved_to(tmp_path / "a")
    states.stage(1, state(2))
    states.commit()
    assert states.write_committed(tmp_path / "b") == [tmp_path / "b" / "1.safetensors"]
    assert (tmp_path / "a" / "0.safetensors").samefile(tmp_path / "b" / "0.safetensors")
    assert number_of(read_records(tmp_path / "a" / "1.safetensors")) == 1
    assert number_of(read_records(tmp_path / "b" / "1.safetensors")) == 2


SCALARS = {
    "metrics": st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.lists(st.integers(-9, 9), max_size=3),
        st.lists(st.floats(), max_size=3),
    ),
    "config": st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.booleans(),
        st.lists(st.binary(max_size=3), max_size=3),
        st.lists(st.text(max_size=3), max_size=3),
        st.lists(st.booleans(), max_size=3),
    ),
}

NAMES = st.text(max_size=6)


@st.composite
def record_dicts(draw):
    records = RecordDict()
    for key in draw(st.lists(NAMES, max_size=4, unique=True)):
        kind = draw(st.sampled_from(["arrays", "encoded", "metrics", "config"]))
        if kind in SCALARS:
            values = draw(st.dictionaries(NAMES, SCALARS[kind], max_size=3))
            records[key] = MetricRecord(values) if kind == "metrics" else ConfigRecord(values)
        else:
            arrays = {}
            for name in draw(st.lists(NAMES, max_size=3, unique=True)):
                shape = draw(st.lists(st.integers(0, 3), max_size=2))
                dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]))
                arrays[name] = draw(st.integers(0, 1)) * torch.ones(shape).to(dtype)
            if kind == "arrays":
                records[key] = to_record(arrays)
            else:  # as any Flower client makes them, one in an encoding that is not numpy's
                record = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in arrays.items()})
                record["own"] = Array("mine", (2,), "my encoding", draw(st.binary(max_size=5)))
                records[key] = record
    return records


@settings(deadline=None)
@given(record_dicts())
def test_records_survive_a_file(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        back = read_records(path, write_records(path, records))
    assert repr(back) == repr(records)  # NaN is not equal to itself
    assert list(back) == list(records)
    for key, record in records.items():
        assert type(back[key]) is type(record)
        assert list(back[key]) == list(record)
        if isinstance(record, ArrayRecord):
            assert [(a.dtype, a.shape, a.stype, a.data) for a in back[key].values()] == [
                (a.dtype, a.shape, a.stype, a.data) for a in record.values()
            ]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_file_is_one_line(tmp_path, content):
    path = tmp_path / "x.safetensors"
    write_records(path, state(1))
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(FedsimError, match=r"^[^\n]*x\.safetensors: not a readable client state[^\n]*$"):
        read_records(path)
    with pytest.raises(FedsimError, match=r"^[^\n]*x\.safetensors: is not what was written[^\n]*$"):
        read_records(path, "0" * 64)
