"""Notices at once that a process has died, also if it is not a child of this process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

_ASK_EVERY_S = 1.0
_UNANSWERED = 5


def processes() -> dict[int, tuple[int, str]]:
    """Return {process id: (its parent's, its command line)} of this machine; words end with a zero byte."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it has ended since
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_bytes().decode(errors="replace")
    return found


class Vigil:
    """Watches processes of this machine, and optionally a port of another.

    Parameters
    ----------
    processes
        {process id: what it is called in an error line}.
    address
        (host, port, what it is called): gone when it has answered no more for some seconds.
    halt
        The name of processes whose death stops the others, so that they do not react to it, until `close`.
    """

    def __init__(
        self, processes: Mapping[int, str], address: tuple[str, int, str] | None = None, *, halt: str | None = None
    ) -> None:
        self.lost = ""
        """What has died; empty while all are alive."""
        self._over = threading.Event()
        self._watched = {}
        for pid, name in processes.items():
            try:
                self._watched[os.pidfd_open(pid)] = name
            except OSError:
                self.lost = name
        self._address, self._halt = address, halt
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        poll, unanswered = select.poll(), 0
        for handle in self._watched:
            poll.register(handle, select.POLLIN)
        while not self._over.is_set() and not self.lost:
            gone = [self._watched[handle] for handle, _ in poll.poll(1000 * _ASK_EVERY_S)]
            if self._halt is not None and self._halt in gone and not self._over.is_set():
                self._signal(signal.SIGSTOP)  # before anybody else hears of it
                self.lost = self._halt
            elif gone:
                self.lost = gone[0]
            if self._address is not None:
                host, port, name = self._address
                try:
                    socket.create_connection((host, port), timeout=_ASK_EVERY_S).close()
                    unanswered = 0
                except OSError:
                    unanswered += 1
                if unanswered == _UNANSWERED:
                    self.lost = name
        if self._halt is None or self.lost != self._halt:
            self._close()

    def _close(self) -> None:
        for handle in self._watched:
            os.close(handle)
        self._watched = {}

    def _signal(self, number: int) -> None:
        for handle in self._watched:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(handle, number)

    def close(self) -> None:
        """Stop watching, soon, and kill what was stopped."""
        self._over.set()
        if self.lost and self.lost == self._halt:
            self._signal(signal.SIGKILL)
            self._close()
