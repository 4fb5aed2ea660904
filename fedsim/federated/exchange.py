"""The exchange of a round: one or more waves of messages to clients; each wave is answered before the next is made."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from flwr.app import Message

Result = TypeVar("Result")
Exchange = Generator[Iterable[Message], Iterable[Message], Result]
"""Yields the messages of each wave, receives their replies, and returns the result of the round."""


def conduct(exchange: Exchange[Result], send: Callable[[list[Message]], Iterable[Message]]) -> Result:
    """Send the waves of an exchange, pass it the replies, and return its result.

    A client whose reply is an error is lost for the rest of the exchange: later waves omit it. All replies are
    consumed, even if the exchange ignores some.
    """
    lost: set[int] = set()

    def heard(replies: Iterable[Message]) -> Iterator[Message]:
        for reply in replies:
            if reply.has_error():
                lost.add(reply.metadata.src_node_id)
            yield reply

    replies: Iterator[Message] = iter(())
    try:
        wave = next(exchange)
        while True:
            replies = heard(send([message for message in wave if message.metadata.dst_node_id not in lost]))
            wave = exchange.send(replies)
            _exhaust(replies)
    except StopIteration as end:
        _exhaust(replies)
        result: Result = end.value
        return result


def _exhaust(replies: Iterator[Message]) -> None:
    for _ in replies:
        pass
