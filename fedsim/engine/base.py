"""What all engines share: a Flower `Grid` that cuts messages into chunks and streams the replies in order."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedsim.engine.flower_internals import client_of, error_reply, new_run, node_of, set_message_id
from fedsim.worker import Reply


class ClientStates:
    """The state of every client that has one, by client; a client that was never trained has none.

    What a round writes is staged until the round is whole: an interrupted round leaves no trace.
    """

    def __init__(self) -> None:
        self._states: dict[int, RecordDict] = {}
        self._staged: dict[int, RecordDict] = {}

    def __getitem__(self, client: int) -> RecordDict:
        return self._staged.get(client) or self._states.get(client) or RecordDict()

    def stage(self, client: int, state: RecordDict) -> None:
        """Set a client's state until `discard`."""
        self._staged[client] = state

    def commit(self) -> None:
        """Keep what was staged."""
        self._states |= self._staged
        self._staged = {}

    def discard(self) -> None:
        """Forget what was staged."""
        self._staged = {}

    def committed(self) -> dict[int, RecordDict]:
        """Return the kept states by client, in order of clients."""
        return dict(sorted(self._states.items()))


@dataclass(frozen=True)
class Chunk:
    """The messages that go to one worker together: the unit of scheduling, of vectorised training and of retry."""

    messages: Sequence[Message]

    @property
    def kind(self) -> str:
        """The messages' type."""
        return str(self.messages[0].metadata.message_type)

    @property
    def clients(self) -> list[int]:
        """Whom they go to."""
        return [client_of(message.metadata.dst_node_id) for message in self.messages]

    @property
    def contents(self) -> list[RecordDict]:
        """What they carry; messages with the same content share the object."""
        return [message.content for message in self.messages]


class ChunkRunner(Protocol):
    """What answers a chunk: a run's `Worker`, or a Flower `ClientApp` behind `fedsim.apps.AppWorker`."""

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        """Return one reply per client, in order."""


class Engine(Grid):
    """A Flower `Grid` over simulated clients.

    Chunks are cut by the messages' order and `chunk` alone, and replies come back in the messages' order, so that no
    sum depends on how many workers there are or which is quicker.
    """

    def __init__(self, num_clients: int, chunk: int) -> None:
        self.num_clients, self.chunk = num_clients, chunk
        self.states = ClientStates()
        self.cohort: Sequence[int] | None = None
        """Clients that strategies get to see; all by default."""
        self.trained: set[int] = set()
        """Clients that have sent a good reply to a training message."""
        self._run = new_run()
        self._ids = itertools.count()
        self._replies: dict[str, Message] = {}

    @abstractmethod
    def run_chunks(self, chunks: Sequence[Chunk]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies, chunk by chunk in order."""

    def states_of(self, chunk: Chunk) -> list[RecordDict]:
        """Return the state of each of a chunk's clients."""
        return [self.states[client] for client in chunk.clients]

    def close(self) -> None:
        """Give back what the engine holds."""

    def stream(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the reply to each message, in order, as chunks finish; a failed client's reply holds an error."""
        messages = list(messages)
        for message in messages:
            set_message_id(message, f"message-{next(self._ids)}")
        chunks = [
            Chunk(run[i : i + self.chunk])
            for _, same_kind in itertools.groupby(messages, key=lambda message: message.metadata.message_type)
            for run in [list(same_kind)]
            for i in range(0, len(run), self.chunk)
        ]
        for chunk, replies in zip(chunks, self.run_chunks(chunks), strict=True):
            for message, client, reply in zip(chunk.messages, chunk.clients, replies, strict=True):
                if reply.content is None:
                    yield error_reply(message, reply.error)
                else:
                    if chunk.kind == "train":
                        self.trained.add(client)
                    if reply.state is not None:
                        self.states.stage(client, reply.state)
                    yield Message(reply.content, reply_to=message)

    # Flower's interface -------------------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run, as Flower's runners do."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return an instruction message (deprecated by Flower in favour of `Message` itself)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the nodes of the cohort, in its order; of all clients while none is set."""
        return [node_of(client) for client in (range(self.num_clients) if self.cohort is None else self.cohort)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the messages; their replies wait to be pulled."""
        replies = list(self.stream(messages))
        ids = [reply.metadata.reply_to_message_id for reply in replies]
        self._replies.update(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have not been pulled yet."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Run the messages and return their replies, in order. Simulated time has no timeout: it is not used."""
        return list(self.stream(messages))
