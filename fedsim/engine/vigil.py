"""Detect the death of processes at once, also of processes that are not children of this one."""

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
    """Return {process id: (parent's id, command line)} on this machine; words end with a zero byte."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_bytes().decode(errors="replace")
    return found


class Vigil:
    """Watches processes of this machine, and optionally a port on another one.

    Parameters
    ----------
    processes
        {process id: name for error messages}; if several die at once, the first name counts.
    address
        (host, port, name): counts as dead if it does not answer for some seconds.
    herald
        The process that is killed when another one has died, before it spreads the news.
    """

    def __init__(
        self, processes: Mapping[int, str], address: tuple[str, int, str] | None = None, herald: int | None = None
    ) -> None:
        self.lost = ""
        """The name of what has died; empty while everything is alive."""
        self._over = threading.Event()
        self._address = address
        self._herald: int | None = None
        self._watched = {}
        for pid, name in processes.items():
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                self.lost = name
            else:
                self._watched[handle] = name
                self._herald = handle if pid == herald else self._herald
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        poll, unanswered = select.poll(), 0
        for handle in self._watched:
            poll.register(handle, select.POLLIN)
        while not self._over.is_set() and not self.lost:
            gone = [self._watched[handle] for handle, _ in poll.poll(1000 * _ASK_EVERY_S)]
            if gone and self._herald is not None and not self._over.is_set():
                with contextlib.suppress(ProcessLookupError):  # it has died too
                    signal.pidfd_send_signal(self._herald, signal.SIGKILL)
            self.lost = gone[0] if gone else ""
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
        """Stop watching, after at most one interval."""
        self._over.set()
