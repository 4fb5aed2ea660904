"""The engine of a real federation: each client is a SuperNode, reached over Flower's own grid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.engine.base import Chunk, Engine
from fedsim.engine.reply import Reply
from fedsim.errors import RunFailed
from fedsim.flower.internals import keeping_identity
from fedsim.flower.records import scalars
from fedsim.flower.wire import HELLO, METRICS, NUM_EXAMPLES, PARTITION_ID, QUERY
from fedsim.version import VERSION

_LOOK_EVERY_S = 0.2


def meet(grid: Grid, clients: int, patience_s: float) -> tuple[dict[int, int], list[int]]:
    """Return {client: node} and the number of samples of each client, once all nodes are connected.

    Raises
    ------
    RunFailed
        If nodes are missing at the end of `patience_s` seconds, a node cannot take part or has another version of
        fedsim, or two nodes have the same client number.
    """
    deadline = time.monotonic() + patience_s
    while len(ids := sorted(grid.get_node_ids())) < clients:
        if time.monotonic() > deadline:
            raise RunFailed(f"{len(ids)} of {clients} SuperNodes are connected after {patience_s:g} s")
        time.sleep(_LOOK_EVERY_S)
    replies = grid.send_and_receive(
        [Message(RecordDict(), node, f"{QUERY}{HELLO}") for node in ids], timeout=max(0.0, deadline - time.monotonic())
    )
    nodes: dict[int, int] = {}
    sizes = [0] * clients
    for reply in replies:
        if reply.has_error():
            raise RunFailed(f"a SuperNode cannot take part: {(reply.error.reason or 'no reason given').strip()}")
        told = scalars(reply.content.metric_records[METRICS])
        client, version = int(told[PARTITION_ID]), str(reply.content.config_records[HELLO]["version"])
        if version != VERSION:
            raise RunFailed(f"the SuperNode of client {client} has fedsim {version}, the server {VERSION}")
        if not 0 <= client < clients or client in nodes:
            raise RunFailed(
                f"partition-id {client} is that of two SuperNodes, or not below {clients}; give each its own in "
                "--node-config"
            )
        nodes[client], sizes[client] = reply.metadata.src_node_id, int(told[NUM_EXAMPLES])
    if len(nodes) < clients:
        missing = ", ".join(str(client) for client in range(clients) if client not in nodes)
        raise RunFailed(f"clients {missing} have not answered within {patience_s:g} s")
    return nodes, sizes


class NodesEngine(Engine):
    """Sends messages to SuperNodes. A node that does not answer within `timeout_s` seconds gets an error reply.

    The state of clients stays on their nodes.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, int], timeout_s: float) -> None:
        with keeping_identity():
            super().__init__(len(nodes), chunk=1)
        self._grid, self._nodes, self._timeout_s = grid, dict(nodes), timeout_s

    def run_chunks(self, chunks: Sequence[Chunk]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies in order; all messages are sent at once."""
        messages = [
            Message(message.content, self._nodes[client], chunk.kind, group_id=message.metadata.group_id)
            for chunk in chunks
            for message, client in zip(chunk.messages, chunk.clients, strict=True)
        ]
        ids = list(self._grid.push_messages(messages)) if messages else []
        deadline = time.monotonic() + self._timeout_s
        got: dict[str, Reply] = {}
        waiting = iter(ids)
        for chunk in chunks:
            mine = [next(waiting) for _ in chunk.clients]
            while not all(one in got for one in mine) and time.monotonic() < deadline:
                for reply in self._grid.pull_messages([one for one in ids if one not in got]):
                    got[reply.metadata.reply_to_message_id] = _read(reply)
                if not all(one in got for one in mine):
                    time.sleep(_LOOK_EVERY_S)
            late = Reply(None, f"no reply within {self._timeout_s:g} s")
            yield [got.get(one, late) for one in mine]


def _read(reply: Message) -> Reply:
    if reply.has_error():
        return Reply(None, (reply.error.reason or "").strip() or f"Flower's error {reply.error.code}")
    return Reply(reply.content)
