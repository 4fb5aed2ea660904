"""A Ray cluster of two nodes on this machine, and the processes that it starts."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fedsim.engine.vigil import processes
from fedsim.scratch import scratch_folder

RAY = Path(sys.executable).parent / "ray"


def descendants(pid: int) -> dict[int, str]:
    """Return {process: command line} of all descendants of a process."""
    table = {pid: (parent, words.replace("\0", " ")) for pid, (parent, words) in processes().items()}
    found: dict[int, str] = {}
    wanted = {pid}
    while wanted:
        wanted = {child for child, (parent, _) in table.items() if parent in wanted and child not in found}
        found |= {child: table[child][1] for child in wanted}
    return found


class TwoNodes:
    """A head and a second node, with one CPU each, and the values that their users need."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.token = secrets.token_hex(32)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "OMP_NUM_THREADS": "1",
        }
        self.folder = scratch_folder(Path("/tmp"))
        common = ["--num-cpus=1", "--disable-usage-stats", "--block"]
        head = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}", *common]
        self.nodes = [self._start(head)]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.2)
        self.nodes.append(self._start([f"--address=127.0.0.1:{self.port}", *common]))
        while time.monotonic() < deadline and not self._joined():
            time.sleep(0.5)

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "out").open("ab") as log:
            return subprocess.Popen(
                [RAY, "start", *arguments], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def _joined(self) -> bool:
        """Return whether the head knows both nodes."""
        told = subprocess.run(
            [RAY, "status", f"--address=127.0.0.1:{self.port}"], env=self.environment, capture_output=True, text=True
        )
        return told.stdout.count(" node_") == len(self.nodes)

    def kill(self, node: int) -> None:
        """Kill a node with all of its processes; `ray start` has put these into their own sessions."""
        for pid in [*descendants(self.nodes[node].pid), self.nodes[node].pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[node].wait()
