"""A broadcast is read once, whoever receives it; runs of messages are of one broadcast each."""

import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.engine.inbox import ChunkMessage, Inbox, by_broadcast
from fedsim.flower.records import to_record
from fedsim.flower.wire import ARRAYS, BROADCAST, CLIP_NORM, CONFIG, CONSTANTS, OWN, SERVER_ROUND


def content(server_round: int) -> RecordDict:
    arrays = to_record({"w": torch.ones(2), "running": torch.zeros(2)})
    return RecordDict({ARRAYS: arrays, CONFIG: ConfigRecord({SERVER_ROUND: server_round, CLIP_NORM: 0.5})})


def test_messages_that_share_records_are_read_once() -> None:
    inbox, first = Inbox(torch.device("cpu"), {"running"}), content(1)
    received = inbox.broadcast(first)
    assert (received.server_round, received.clip_norm) == (1, 0.5)
    assert (set(received.state.params), set(received.state.buffers)) == ({"w"}, {"running"})
    assert received.constants == {}
    to_one = RecordDict({**first, OWN: to_record({"mine": torch.ones(1)})})
    assert inbox.broadcast(to_one) is received
    assert list(inbox.own(to_one)) == ["mine"]
    assert inbox.own(first) == {}
    assert inbox.broadcast(content(2)).server_round == 2
    with_constants = RecordDict({**first, CONSTANTS: to_record({"c": torch.ones(1)})})
    assert list(inbox.broadcast(with_constants).constants) == ["c"]


def test_messages_without_an_id_are_alone() -> None:
    ids = ["a", "a", "b", None, None, "a"]
    messages = [
        ChunkMessage(client, RecordDict(), RecordDict({CONFIG: ConfigRecord({} if one is None else {BROADCAST: one})}))
        for client, one in enumerate(ids)
    ]
    assert [[sent.client for sent in some] for some in by_broadcast(messages)] == [[0, 1], [2], [3], [4], [5]]
