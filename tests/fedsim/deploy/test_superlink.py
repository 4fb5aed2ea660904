"""The app on a real SuperLink with three SuperNodes, processes of their own on 127.0.0.1."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim.runs.folder import RunFolder
from tests.fedsim.deploy.federations import SMALL, made_app, simulated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Federation:
    """A SuperLink and its SuperNodes, each with all of its processes in a group that can be ended."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.link, *self.ports = folder, *free_ports(nodes + 1)
        home = folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.link}"\ninsecure = true\n'
        )
        self.environment = {
            **os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        self.groups: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(self.groups)}.log").open("wb")
        self.groups.append(
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        )
        log.close()
        return self.groups[-1]

    def begin(self) -> None:
        self.start(
            "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.link),
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.link), timeout=1):
                break
            time.sleep(0.2)
        for client, port in enumerate(self.ports):
            data = self.folder / f"node{client}.npz"
            self.start(
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.link}", "--port", str(port),
                "--node-config", f'partition-id={client} data="{data}"',
            )  # fmt: skip

    def run(self, app: Path, name: str) -> subprocess.Popen[bytes]:
        told = f'test-data="{self.folder / "test.npz"}" name="{name}" patience-s=300.0 reply-timeout-s=120.0'
        return self.start("flwr", "run", str(app), "here", "--stream", "--run-config", told)

    def end(self) -> None:
        for group in reversed(self.groups):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group.pid, signal.SIGKILL)
            group.wait()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    if shutil.which("flower-superlink", path=str(BIN)) is None:
        pytest.skip("Flower's commands are not installed")
    made = Federation(tmp_path, 3)
    yield made
    made.end()


def test_the_model_of_the_simulation_and_a_node_that_is_killed(tmp_path: Path, federation: Federation) -> None:
    expected = simulated(tmp_path, SMALL)
    app = made_app(tmp_path, SMALL)
    federation.begin()
    federation.run(app, "small").wait()
    run = app / "runs" / "small"
    assert (run / "model.safetensors").read_bytes() == (expected.folder / "model.safetensors").read_bytes()
    assert (run / "report.html").is_file()
    assert (run / "privacy.json").is_file()

    process = federation.run(app, "killed")
    metrics = app / "runs" / "killed" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text()):  # the first round is not done
        assert process.poll() is None
        time.sleep(0.5)
    os.killpg(federation.groups[2].pid, signal.SIGKILL)  # the second node, as it works at the second
    process.wait()
    folder = RunFolder.open(app / "runs" / "killed")
    assert (folder.status, folder.rounds_done) == ("finished", 2)
    assert folder.metrics[-1].metrics["train/failures"] == 1.0
