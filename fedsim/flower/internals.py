"""The only module that uses internals of Flower, which may change without notice."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read once, when flwr is first imported

from flwr.app import ArrayRecord, Context, Error, Message, Metadata, RecordDict
from flwr.app.message import recorddict
from flwr.app.message.typeddict import TypedDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.flower.wire import NUM_PARTITIONS, OWN, PARTITION_ID

logging.getLogger("flwr").setLevel(logging.ERROR)

_FIRST_NODE = 2  # 1 is the server


_SyncedDict: Any = recorddict._SyncedDict  # the type of `RecordDict.array_records` and similar properties


def _view(self: Any, records: RecordDict, allowed: type) -> None:
    """Initialise a view of some records without Flower's reference cycle.

    With the cycle, replies whose arrays were read stay in memory until the garbage collector runs: about 40 models.
    """
    TypedDict.__init__(
        self, recorddict._check_key, partial(_SyncedDict.check_value, SimpleNamespace(allowed_type=allowed))
    )
    self.recorddict, self.allowed_type = records, allowed


_SyncedDict.__init__ = _view


def new_run() -> Run:
    """Return Flower's description of a run, and make this process able to build instruction messages."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    return Run.create_empty(run_id=1)


@contextmanager
def keeping_identity() -> Iterator[None]:
    """Restore this process's Flower identity after the block."""
    before = TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id
    try:
        yield
    finally:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = before


def node_of(client: int) -> int:
    """Return the node id of a client. It is the same in every run."""
    return client + _FIRST_NODE


def client_of(node: int) -> int:
    """Return the client with this node id."""
    return node - _FIRST_NODE


def client_context(client: int, num_clients: int, state: RecordDict) -> Context:
    """Return the context for a call of a Flower `ClientApp`."""
    return Context(1, node_of(client), {PARTITION_ID: client, NUM_PARTITIONS: num_clients}, state, {})


def set_message_id(message: Message, message_id: str) -> None:
    """Set a message's id, as Flower's own grids do when they push the message."""
    message.metadata.__dict__["_message_id"] = message_id


def broadcast(
    content: RecordDict,
    nodes: Sequence[int],
    message_type: str,
    group_id: str,
    own: Mapping[int, ArrayRecord] | None = None,
) -> list[Message]:
    """Return one message per node. All share this content; `own` adds arrays for single nodes."""
    if not nodes:
        return []
    first = Message(content, nodes[0], message_type, group_id=group_id)
    messages = [first, *(_altered(first, content, _dst_node_id=node) for node in nodes[1:])]
    if own is None:
        return messages
    return [_altered(m, RecordDict({**content, OWN: own[node]})) for m, node in zip(messages, nodes, strict=True)]


def reply_to(message: Message, content: RecordDict) -> Message:
    """Return the reply to a message."""
    to = message.metadata
    return _altered(
        message, content, _src_node_id=to.dst_node_id, _dst_node_id=to.src_node_id, _src_task_id=None, _dst_task_id=1,
        _message_id="", _reply_to_message_id=to.message_id,
    )  # fmt: skip


def _altered(message: Message, content: RecordDict, **metadata: Any) -> Message:
    """Return a copy of a message with other content and metadata, ten times as fast as the constructor."""
    altered, about = Message.__new__(Message), Metadata.__new__(Metadata)
    about.__dict__.update(message.metadata.__dict__, **metadata)
    altered.__dict__.update(message.__dict__, _metadata=about, _content=content)
    return altered


def error_reply(message: Message, reason: str) -> Message:
    """Return the error reply of a client that failed; 2 is Flower's code for an exception."""
    return Message(Error(2, reason), reply_to=message)


@contextmanager
def seeded_choice(seed: int) -> Iterator[None]:
    """Seed Python's global generator, from which Flower's strategies sample nodes, and restore it afterwards."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
