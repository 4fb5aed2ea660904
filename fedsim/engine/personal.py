"""The personal tensors of a client, stored between rounds as records of its Flower context."""

from __future__ import annotations

import torch
from flwr.app import RecordDict

from fedsim.federated.types import State
from fedsim.flower.records import to_record, to_tensors
from fedsim.flower.wire import PERSONAL, PERSONAL_BUFFERS


def read_personal(records: RecordDict, device: torch.device) -> State | None:
    """Return the personal tensors of a client; None if it has none."""
    if PERSONAL not in records:
        return None
    return State(*(to_tensors(records.array_records[part], device) for part in (PERSONAL, PERSONAL_BUFFERS)))


def personal_records(kept: State, row: int) -> RecordDict | None:
    """Return a copy of row `row` of personal tensors (clients, ...); a view would keep the whole chunk in memory."""
    if not kept.params and not kept.buffers:
        return None
    params, buffers = ({name: value[row].clone() for name, value in part.items()} for part in kept)
    return RecordDict({PERSONAL: to_record(params), PERSONAL_BUFFERS: to_record(buffers)})
