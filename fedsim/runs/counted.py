"""Counts the replies of a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flwr.app import Message

from fedsim.flower.internals import client_of
from fedsim.runs.observers import RoundObserver
from fedsim.runs.traffic import Traffic

_RECORDED = 100  # most clients per reason and round, and most reasons per round


class Counted:
    """Passes replies on to the strategy, counts them, and shows them to observers."""

    def __init__(self, observers: Sequence[RoundObserver]) -> None:
        self._observers = observers
        self.good = 0
        """Good replies of the newest wave."""
        self.heard = 0
        """Replies of all waves."""
        self.failed = 0
        """Clients that failed in some wave; they get no message of a later wave."""
        self.failures: dict[str, list[int]] = {}
        """Failed clients, by the first line of the reason."""
        self.traffic = Traffic()

    def of(self, wave: Sequence[Message], replies: Iterator[Message]) -> Iterator[Message]:
        """Yield the replies to a wave."""
        self.good = 0
        self.traffic.begin_wave(wave)
        for reply in replies:
            if reply.has_error():
                self.failed += 1
                self._record(client_of(reply.metadata.src_node_id), reply.error.reason or "no reason given")
            else:
                self.good += 1
                self.traffic.heard(reply.content)
            self.heard += 1
            for observer in self._observers:
                observer.reply(reply)
            yield reply

    def _record(self, client: int, reason: str) -> None:
        line = reason.split("\n", 1)[0]
        clients = self.failures.get(line, [])
        if clients or len(self.failures) < _RECORDED:
            self.failures[line] = [*clients, client][:_RECORDED]
