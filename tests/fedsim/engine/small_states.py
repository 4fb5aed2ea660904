"""Small states of clients."""

import torch
from flwr.app import RecordDict

from fedsim.flower.records import to_record


def state(number: int) -> RecordDict:
    return RecordDict({"personal": to_record({"w": torch.full((3,), float(number))})})


def number_of(records: RecordDict) -> int | None:
    return int(records.array_records["personal"]["w"].numpy()[0]) if records else None
