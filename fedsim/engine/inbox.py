"""Reads the messages of a chunk; their common broadcast is moved to the device once."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from flwr.app import RecordDict

from fedsim.federated.types import State
from fedsim.flower import wire
from fedsim.flower.records import Tensors, to_tensors


class ChunkMessage(NamedTuple):
    """One message of a chunk."""

    client: int
    state: RecordDict
    content: RecordDict


@dataclass(frozen=True)
class Received:
    """A broadcast on this worker's device."""

    records: Sequence[object]
    """The records of the message that it was read from."""
    state: State
    constants: Tensors
    server_round: int
    clip_norm: float | None
    """The largest norm of an update that client-level privacy allows in this round."""


class Inbox:
    """Reads messages; the newest broadcast is kept, since all clients of a round receive the same one."""

    def __init__(self, device: torch.device, buffer_names: Collection[str]) -> None:
        self.device, self._buffer_names = device, buffer_names
        self._received: Received | None = None

    def broadcast(self, content: RecordDict) -> Received:
        """Return the content that all clients of a broadcast receive."""
        # All messages of a broadcast share its records; where they are copies, each is read anew.
        records = [content.get(key) for key in (wire.ARRAYS, wire.CONSTANTS, wire.CONFIG)]
        if self._received is None or any(map(operator.is_not, self._received.records, records)):
            tensors = to_tensors(wire.arrays_in(content), self.device)
            constants = to_tensors(wire.arrays_in(content, wire.CONSTANTS), self.device)
            clip_norm = wire.told_in(content).get(wire.CLIP_NORM)
            assert clip_norm is None or isinstance(clip_norm, float)
            state = self.split(tensors)
            self._received = Received(records, state, constants, wire.round_of(content), clip_norm)
        return self._received

    def own(self, content: RecordDict) -> Tensors:
        """Return the tensors for this receiver only."""
        return to_tensors(wire.arrays_in(content, wire.OWN), self.device)

    def split(self, tensors: Tensors) -> State:
        """Return the tensors as parameters and buffers."""
        buffers = {name: value for name, value in tensors.items() if name in self._buffer_names}
        return State({name: value for name, value in tensors.items() if name not in buffers}, buffers)


def by_broadcast(messages: Sequence[ChunkMessage]) -> Iterator[Sequence[ChunkMessage]]:
    """Yield groups of successive messages of one broadcast; a message without a broadcast id is a group of its own."""
    ids = [wire.broadcast_of(sent.content) or number for number, sent in enumerate(messages)]
    for _, some in itertools.groupby(zip(ids, messages, strict=True), lambda pair: pair[0]):
        yield [sent for _, sent in some]
