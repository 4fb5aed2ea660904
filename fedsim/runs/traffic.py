"""How many bytes of tensors go between the server and the clients of a round."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from fedsim.flower import wire
from fedsim.flower.records import TensorArray


def payload_bytes(content: RecordDict) -> int:
    """Return the bytes of all tensors in a message, as they are; names, shapes and numbers beside them not counted."""
    return sum(_bytes_of(record) for record in content.values() if isinstance(record, ArrayRecord))


class Traffic:
    """Counts what real clients would be sent and send, wherever they run, in all waves of a round."""

    def __init__(self) -> None:
        self.down, self.up = 0, 0
        """Bytes to the clients, failed ones among them, and from those that answered."""
        self._summed, self._good, self._largest = False, 0, 0

    @property
    def counts(self) -> dict[str, int]:
        """Both, as a line of metrics.jsonl has them."""
        return {"bytes_down": self.down, "bytes_up": self.up}

    def begin_wave(self, wave: Iterable[Message]) -> None:
        """Count what a wave sends."""
        self._summed, self._good, self._largest = False, 0, 0
        known: dict[int, int] = {}  # the messages of a broadcast share their records
        for message in wave:
            for record in message.content.values():
                if isinstance(record, ArrayRecord):
                    size = known.get(id(record))
                    size = known[id(record)] = _bytes_of(record) if size is None else size
                    self.down += size
            if wire.CONFIG in message.content:
                self._summed = wire.told_in(message.content).get(wire.REPLY) == wire.SUM

    def heard(self, content: RecordDict) -> None:
        """Count a good reply. Where one client of a chunk carries the sum of all, each would send as much alone."""
        own = content.get(wire.OWN_ARRAYS)
        size = _bytes_of(own) if isinstance(own, ArrayRecord) else payload_bytes(content)
        if not self._summed:
            self.up += size
            return
        self._good += 1
        before, self._largest = self._largest, max(self._largest, size)
        self.up += self._good * self._largest - (self._good - 1) * before


def _bytes_of(record: ArrayRecord) -> int:
    return sum(
        array.tensor.nbytes
        if isinstance(array, TensorArray)
        else int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
        for array in record.values()
    )
