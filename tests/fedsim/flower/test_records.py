import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common import serde
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st

from fedsim.flower.records import TensorArray, copy_records, from_numpy, to_record, to_tensors

_DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    numbers = torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape)
    return (numbers % 7).to(draw(st.sampled_from(_DTYPES)))


@given(tensors())
def test_is_what_flower_makes_of_the_same_values(tensor):
    ours, theirs = TensorArray(tensor), Array(tensor.numpy())
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (theirs.dtype, theirs.shape, theirs.stype, theirs.data)
    assert isinstance(ours, Array)
    assert ours.numpy().dtype == theirs.numpy().dtype
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_numpy_is_a_writable_copy():
    tensor = torch.zeros(3)
    copy = TensorArray(tensor).numpy()
    copy += 1
    assert tensor.tolist() == [0, 0, 0]


def test_holds_the_tensor_itself():
    tensor = torch.zeros(3, requires_grad=True)
    held = to_tensors(to_record({"w": tensor}))["w"]
    assert held.data_ptr() == tensor.data_ptr()
    assert not held.requires_grad


@given(tensors())
def test_pickle_round_trip(tensor):
    back = pickle.loads(pickle.dumps(TensorArray(tensor), protocol=5)).tensor
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_out_of_band_buffers_are_not_copied():
    tensor = torch.arange(1000.0)
    buffers = []
    data = pickle.dumps(to_record({"w": tensor}), protocol=5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert buffers[0].raw().nbytes == 4000
    back = pickle.loads(data, buffers=buffers)["w"].tensor
    assert back.data_ptr() == tensor.data_ptr()


def test_small_buffers_are_put_where_torch_would():
    """A matrix product may round by where its factors lie, and engines are to agree bit for bit."""
    memory = np.zeros(200, np.uint8)
    start = -memory.ctypes.data % 64 + 8
    buffer = pickle.PickleBuffer(memory[start : start + 40])
    plain = pickle.dumps(TensorArray(torch.zeros(10)), protocol=5, buffer_callback=lambda _: False)
    back = pickle.loads(plain, buffers=[buffer]).tensor
    assert back.data_ptr() % 64 == 0


@pytest.mark.parametrize(
    "array", [np.array(3.0), np.array([True]), np.zeros((0, 3)), np.arange(6).reshape(2, 3)[:, ::2]]
)
def test_read_only_memory_is_shared_without_a_warning(array):
    array = array.view()
    array.flags.writeable = False
    tensor = from_numpy(array)
    assert tensor.data_ptr() == array.ctypes.data or not array.size
    assert tensor.shape == array.shape
    assert tensor.tolist() == array.tolist()


def test_keeps_read_only_memory_alive():
    array = np.arange(1000)
    array.flags.writeable = False
    tensor = from_numpy(array)
    del array
    assert tensor.sum() == 499500


@given(tensors())
def test_through_flowers_serialisation(tensor):
    records = RecordDict({"arrays": to_record({"a/b": tensor, "c": torch.ones(2)})})
    back = serde.recorddict_from_proto(serde.recorddict_to_proto(records)).array_records["arrays"]
    assert list(back) == ["a/b", "c"]
    np.testing.assert_array_equal(back["a/b"].numpy(), tensor.numpy())


def test_through_flowers_object_store():
    """How a real federation sends records: object by object, each under its class's name."""
    record = to_record({"w": torch.arange(4.0)})
    objects = {key: value.deflate() for key, value in get_all_nested_objects(record).items()}
    assert b"TensorArray" not in b"".join(objects.values())
    assert record.object_id == ArrayRecord({"w": Array(np.arange(4, dtype=np.float32))}).object_id


def test_a_flower_record_becomes_tensors():
    record = ArrayRecord([np.arange(3.0), np.array(True)])
    back = to_tensors(record)
    assert [value.dtype for value in back.values()] == [torch.float64, torch.bool]


def test_a_copy_of_records_shares_arrays_only():
    records = RecordDict({"arrays": to_record({"w": torch.zeros(2)})})
    copy = copy_records(records)
    assert copy.array_records["arrays"]["w"] is records.array_records["arrays"]["w"]
    copy.array_records["arrays"]["w"] = TensorArray(torch.ones(2))
    copy["more"] = to_record({})
    assert list(records) == ["arrays"]
    assert to_tensors(records.array_records["arrays"])["w"].tolist() == [0, 0]
