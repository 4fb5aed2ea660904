"""Personal tensors of a client come back unchanged, as a copy of its own row."""

import torch
from flwr.app import RecordDict

from fedsim.engine.personal import personal_records, read_personal
from fedsim.federated.types import State

CPU = torch.device("cpu")


def test_a_row_of_what_a_chunk_keeps_comes_back() -> None:
    kept = State({"w": torch.arange(6.0).view(3, 2)}, {"n": torch.tensor([1, 2, 3])})
    records = personal_records(kept, 1)
    assert records is not None
    kept.params["w"].zero_()  # the next chunk may use the same memory
    state = read_personal(records, CPU)
    assert state is not None
    assert state.params["w"].tolist() == [2, 3]
    assert state.buffers["n"].item() == 2


def test_who_keeps_nothing_has_no_records() -> None:
    assert personal_records(State({}, {}), 0) is None
    assert read_personal(RecordDict(), CPU) is None
