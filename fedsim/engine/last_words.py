"""Prints an error line for a process that ended without one: Ray's core ends a process whose raylet has died."""

from __future__ import annotations

import contextlib
import subprocess
import sys

_TELLER = """
import sys
line = b""
for line in sys.stdin.buffer:
    pass
sys.stderr.buffer.write(line.lstrip())
"""


class LastWords:
    """A small process that writes an error line to standard error if this process ends before it calls `close`."""

    def __init__(self) -> None:
        self._teller = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TELLER],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,  # Ctrl-C must not reach it
        )  # fmt: skip

    def are(self, text: str) -> None:
        """Set the text to print; it replaces the text before. An empty text prints nothing."""
        line = f"error: {text}" if text else ""
        assert self._teller.stdin is not None
        with contextlib.suppress(OSError):  # it was killed
            self._teller.stdin.write(line.encode(sys.stderr.encoding or "utf-8", "replace") + b"\n")
            self._teller.stdin.flush()

    def close(self) -> None:
        """End the process; it prints nothing."""
        self._teller.kill()
        self._teller.communicate()
