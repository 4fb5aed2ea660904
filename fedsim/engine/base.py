"""The base of all engines: a Flower `Grid` that splits messages into chunks and streams the replies in order."""

from __future__ import annotations

import itertools
import traceback
from abc import abstractmethod
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedsim.engine.reply import Reply
from fedsim.engine.states import ClientStates
from fedsim.errors import ClusterLost
from fedsim.flower.internals import client_of, error_reply, new_run, node_of, reply_to, set_message_id
from fedsim.flower.wire import TRAIN, broadcast_of


@dataclass(frozen=True)
class Chunk:
    """The messages that go to one worker together: the unit of scheduling, of vectorised training and of retry."""

    messages: Sequence[Message]

    @cached_property
    def kind(self) -> str:
        """The messages' type."""
        return str(self.messages[0].metadata.message_type)

    @cached_property
    def clients(self) -> list[int]:
        """The receivers."""
        return [client_of(message.metadata.dst_node_id) for message in self.messages]

    @cached_property
    def contents(self) -> list[RecordDict]:
        """The contents of the messages; messages with the same content share one object."""
        return [message.content for message in self.messages]


class ChunkRunner(Protocol):
    """An object that answers chunks: a run's `Worker`, or a Flower `ClientApp` in `fedsim.flower.apps.AppWorker`."""

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        """Return one reply per client, in order."""


def answer(
    worker: ChunkRunner, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
) -> list[Reply]:
    """Return the worker's replies; if it raises, only the clients of this chunk fail."""
    try:
        replies = worker.run_chunk(kind, contents, clients, states)
        if len(replies) != len(clients):
            raise RuntimeError(f"{len(replies)} replies to {len(clients)} messages")
        return replies
    except Exception as error:
        reason = f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"
        return [Reply(None, reason)] * len(clients)


def lost(chunk: Chunk, told: str, *, drop: bool) -> list[Reply]:
    """Return error replies, with the reason `told`, for a chunk that no worker has answered, if the run may `drop` it.

    Raises
    ------
    ClusterLost
        If the run may not drop it: a model without these clients would differ.
    """
    if drop:
        return [Reply(None, told)] * len(chunk.clients)
    who = ", ".join(map(str, chunk.clients[:3])) + (", ..." if len(chunk.clients) > 3 else "")
    raise ClusterLost(
        f"engine: no reply of clients {who}: {told}; raise engine.retries, or start the run with "
        "engine.lost_chunks=drop to go on without them"
    ) from None


def cut(messages: Iterable[Message], size: int) -> list[Chunk]:
    """Cut messages into chunks of at most `size`, each of one kind and with no client twice."""
    chunks: list[list[Message]] = []
    clients: set[int] = set()
    kind_before = None
    for message in messages:
        about = message.metadata
        client, kind = about.dst_node_id, about.message_type
        if not chunks or len(chunks[-1]) == size or client in clients or kind != kind_before:
            chunks.append([])
            clients, kind_before = set(), kind
        chunks[-1].append(message)
        clients.add(client)
    return [Chunk(chunk) for chunk in chunks]


def key_of(content: RecordDict) -> Hashable:
    """Return a key that all contents of one broadcast share, valid during their lifetime."""
    return broadcast_of(content) or id(content)


def predecessors(chunks: Sequence[Chunk]) -> list[int]:
    """Return for each chunk the last earlier chunk that shares a client with it; -1 if there is none.

    A client handles its messages one after another, each with the state that the previous one left.
    """
    last: dict[int, int] = {}
    found = []
    for index, chunk in enumerate(chunks):
        found.append(max((last.get(client, -1) for client in chunk.clients), default=-1))
        last |= dict.fromkeys(chunk.clients, index)
    return found


class Engine(Grid):
    """A Flower `Grid` over simulated clients.

    Chunks depend only on the order of messages and on `chunk`, and replies come in the order of messages. So no sum
    depends on the number or the speed of workers.
    """

    def __init__(self, num_clients: int, chunk: int, states: ClientStates | None = None) -> None:
        self.num_clients, self.chunk = num_clients, chunk
        self.states = states or ClientStates()
        self.notes: dict[str, str] = {}
        """Information for users, such as the address of the engine's dashboard."""
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

    def report(self, metrics: Mapping[str, float]) -> None:
        """Publish the metrics of a finished round, if the engine has a place for them; by default it has none."""

    def leave_word(self, advice: str) -> None:
        """Keep what to do next, to be told if the engine ends this process; by default it does not."""

    def close(self) -> None:
        """Release the engine's resources."""
        self.states.close()

    def stream(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the reply to each message, in order, as chunks finish; a failed client's reply holds an error."""
        messages = list(messages)
        for message in messages:
            set_message_id(message, f"message-{next(self._ids)}")
        chunks = cut(messages, self.chunk)
        answered = self.run_chunks(chunks)
        for chunk in chunks:
            replies = deque(next(answered))
            for message, client in zip(chunk.messages, chunk.clients, strict=True):
                # Nothing here holds a reply for longer than the caller does.
                reply = replies.popleft()
                if reply.content is None:
                    yield error_reply(message, reply.error)
                    continue
                if chunk.kind == TRAIN:
                    self.trained.add(client)
                if reply.state is not None:
                    self.states.stage(client, reply.state)
                yield reply_to(message, reply.content)

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
        """Return the nodes of the cohort, in its order, or of all clients if no cohort is set."""
        return [node_of(client) for client in (range(self.num_clients) if self.cohort is None else self.cohort)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the messages, and keep their replies until they are pulled."""
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
