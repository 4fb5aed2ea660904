"""Notices at once that a process has died, also if it is not a child of this process."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Mapping

_ASK_EVERY_S = 1.0
_UNANSWERED = 5


class Vigil:
    """Watches processes of this machine, and optionally a port of another.

    Parameters
    ----------
    processes
        {process id: what it is called in an error line}.
    address
        (host, port, what it is called): gone when it has answered no more for some seconds.
    """

    def __init__(self, processes: Mapping[int, str], address: tuple[str, int, str] | None = None) -> None:
        self.lost = ""
        """What has died; empty while all are alive."""
        self._over = threading.Event()
        self._watched = {}
        for pid, name in processes.items():
            try:
                self._watched[os.pidfd_open(pid)] = name
            except OSError:
                self.lost = name
        self._address = address
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        poll, unanswered = select.poll(), 0
        for handle in self._watched:
            poll.register(handle, select.POLLIN)
        while not self._over.is_set() and not self.lost:
            for handle, _ in poll.poll(1000 * _ASK_EVERY_S):
                self.lost = self._watched[handle]
            if self._address is not None:
                host, port, name = self._address
                try:
                    socket.create_connection((host, port), timeout=_ASK_EVERY_S).close()
                    unanswered = 0
                except OSError:
                    unanswered += 1
                if unanswered == _UNANSWERED:
                    self.lost = name
        for handle in self._watched:
            os.close(handle)

    def close(self) -> None:
        """Stop watching, soon."""
        self._over.set()
