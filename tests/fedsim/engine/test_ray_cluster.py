"""A cluster of two nodes on this machine, each a raylet of its own: joined with a token, cut in two."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsim
from fedsim.scratch import scratch_folder
from tests.tiny_runs import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]
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


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray")
    made = TwoNodes()
    yield made
    for node in reversed(range(2)):
        made.kill(node)


def command(two_nodes: TwoNodes, out: Path, rounds: int) -> list[str]:
    return [
        sys.executable, "-m", "fedsim", "run", "--clients=6", f"--rounds={rounds}", "--name=there", "--model=mlp",
        "--set=model.hidden=[32]", "--set=training.vectorize=never", "--set=training.epochs=1",
        "--set=training.chunk=1", "--set=checkpoint_every=1", f"--out={out}",
        f"--ray-address=127.0.0.1:{two_nodes.port}",
    ]  # fmt: skip


def test_a_node_that_is_lost_changes_no_bit_and_a_token_is_asked_for(two_nodes: TwoNodes, tmp_path: Path) -> None:
    rounds = 12
    options = {**TINY, "rounds": rounds, "training": {**TINY["training"], "chunk": 1}, "out": str(tmp_path / "here")}
    here = fedsim.run(options, progress=None).folder
    without = {key: value for key, value in two_nodes.environment.items() if not key.startswith("RAY_AUTH")}
    refused = subprocess.run(
        command(two_nodes, tmp_path, rounds),
        env={**without, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to" in refused.stderr
    with subprocess.Popen(command(two_nodes, tmp_path, rounds), env=two_nodes.environment) as run:
        metrics = tmp_path / "there" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text()):
            assert run.poll() is None
            time.sleep(0.05)
        two_nodes.kill(1)
        assert run.wait() == 0
    model = "model.safetensors"
    assert (tmp_path / "there" / model).read_bytes() == (here / model).read_bytes()
