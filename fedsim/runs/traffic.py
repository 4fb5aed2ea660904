"""Counts the bytes of tensors that the server and the clients of a round exchange."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from fedsim.flower import wire
from fedsim.flower.records import TensorArray


def payload_bytes(content: RecordDict) -> int:
    """Return the size in bytes of all tensors in a message; names, shapes and metrics do not count."""
    return sum(_bytes_of(record) for record in content.values() if isinstance(record, ArrayRecord))


class Traffic:
    """Counts the traffic of a real federation in one round, over all waves, whichever engine simulates it."""

    def __init__(self) -> None:
        self.down = 0
        """Bytes sent to clients, including those that fail."""
        self._up = 0
        """Bytes received in earlier waves."""
        self._summed, self._good, self._largest = False, 0, 0
        """State of the current wave: whether replies are summed per chunk, number of good replies, size of the
        largest."""

    @property
    def up(self) -> int:
        """Bytes received from clients; if replies are summed per chunk, each client counts with the size of a sum."""
        return self._up + self._good * self._largest

    @property
    def counts(self) -> dict[str, int]:
        """Both counts, by their names in metrics.jsonl."""
        return {"bytes_down": self.down, "bytes_up": self.up}

    def begin_wave(self, wave: Iterable[Message]) -> None:
        """Count the messages of a wave."""
        self._up, self._summed, self._good, self._largest = self.up, False, 0, 0
        known: dict[int, int] = {}  # the messages of a broadcast share their content, or their records
        for message in wave:
            content = message.content
            if id(content) not in known:
                known[id(content)] = self._size(content, known)
                if wire.CONFIG in content:
                    self._summed = wire.told_in(content).get(wire.REPLY) == wire.SUM
            self.down += known[id(content)]

    def _size(self, content: RecordDict, known: dict[int, int]) -> int:
        total = 0
        for record in content.values():
            if isinstance(record, ArrayRecord):
                if id(record) not in known:
                    known[id(record)] = _bytes_of(record)
                total += known[id(record)]
        return total

    def heard(self, content: RecordDict) -> None:
        """Count a good reply."""
        size = 0
        if len(content):
            own = content.get(wire.OWN_ARRAYS)
            size = _bytes_of(own) if isinstance(own, ArrayRecord) else payload_bytes(content)
        if self._summed:
            self._good += 1
            self._largest = max(self._largest, size)
        else:
            self._up += size


def _bytes_of(record: ArrayRecord) -> int:
    return sum(
        array.tensor.nbytes
        if isinstance(array, TensorArray)
        else int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
        for array in record.values()
    )
