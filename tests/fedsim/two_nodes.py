"""A cluster of two nodes on this machine, each a raylet of its own, that wants a token."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fedsim.scratch import scratch_folder

RAY = Path(sys.executable).parent / "ray"


class TwoNodes:
    """A head and a second node, a CPU each, and what their users need to know."""

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

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "out").open("ab") as log:
            return subprocess.Popen(
                [RAY, "start", *arguments], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, node: int) -> None:
        """Kill a node with all of its processes, which `ray start` has put into sessions of their own."""
        for pid in [*self._below(self.nodes[node].pid), self.nodes[node].pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.nodes[node].wait()

    def _below(self, parent: int) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found += [int(folder.name), *self._below(int(folder.name))]
            except OSError:
                continue
        return found
