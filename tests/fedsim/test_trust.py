"""What is not trusted: run folders, presets, configurations that are rerun, what lies in the current directory."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import fedsim
from fedsim.config.machine import MACHINE_SETTINGS
from fedsim.config.resolve import find_config, resolve
from fedsim.config.run import flatten
from fedsim.runs.folder import RunFolder
from tests.tiny_runs import TINY, TINY_FLAGS, Cli
from unlearning.pipeline.source import open_source

FOREIGN = {
    "out": "/elsewhere",
    "engine": {
        "name": "ray", "device": "cuda:7", "ray_address": "127.0.0.1:{port}", "dashboard": True, "dashboard_port": 81,
    },
}  # fmt: skip


def forged(tiny_run: Path, folder: Path, port: int, *, dotted: bool = False) -> Path:
    """Return a copy of a run whose configuration orders this machine about."""
    run = Path(shutil.copytree(tiny_run, folder))
    config = yaml.safe_load((run / "config.yaml").read_text())
    orders = yaml.safe_load(yaml.safe_dump(FOREIGN).replace("{port}", str(port)))
    config = {**config, **dict(flatten(orders))} if dotted else {**config, **orders}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@contextmanager
def listener() -> Iterator[tuple[int, list[str]]]:
    """Yield a port of this machine, and a list of those that have connected to it."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                came.append(str(address))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("dotted", [False, True], ids=["sections", "dotted keys"])
def test_no_order_of_a_run_folder_reaches_a_configuration(tiny_run: Path, tmp_path: Path, dotted: bool) -> None:
    run = forged(tiny_run, tmp_path / "run", 1, dotted=dotted)
    default = dict(flatten(resolve().model_dump(mode="json")))
    for config in (resolve(RunFolder.open(run).config), resolve(find_config(str(run))), open_source(run).config):
        found = dict(flatten(config.model_dump(mode="json")))
        assert {key: found[key] for key in MACHINE_SETTINGS} == {key: default[key] for key in MACHINE_SETTINGS}


def test_a_file_that_orders_is_one_line(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    file = forged(tiny_run, tmp_path / "run", 1) / "config.yaml"
    outcome = cli("run", "--config", file, "--out", tmp_path / "new")
    assert outcome.code == 2
    assert f"{file}: engine.dashboard is a setting of this machine, which no configuration may make" in outcome.err
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_foreign_address_is_never_connected_to(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    with listener() as (port, came):
        run = forged(tiny_run, tmp_path / "run", port)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["engine"]["name"] = "auto"  # Ray would be asked for by the address alone
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "summary.json").unlink()
        assert cli("run", "--resume", run, "--quiet").code == 0
        assert cli("unlearn", run, "--method", "finetune", "--forget", "class=3", "--quiet").code == 0
        assert cli("run", "--config", run, "--out", tmp_path, "--name", "again", "--rounds", "1", "-q").code == 0
        assert fedsim.load_run_model(run) is not None
        assert came == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_foreign_ray_head_gets_no_job(tiny_run: Path, tmp_path: Path) -> None:
    """The attack itself: a Ray head of somebody else, and a run folder that names it."""
    pytest.importorskip("ray")
    from ray._raylet import GcsClient

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = tempfile.mkdtemp(prefix="fr-", dir="/tmp")  # Ray's sockets have to have short names
    head = subprocess.Popen(
        [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--num-cpus=2", "--block",
         "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={home}"],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},  # it would take anybody's data
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.5)
        gcs = GcsClient(address=f"127.0.0.1:{port}")
        assert gcs.get_all_job_info() == {}
        run = forged(tiny_run, tmp_path / "run", port)
        for command in (
            ["unlearn", str(run), "--method", "finetune", "--forget", "class=3", "--compare", "retrain"],
            ["run", "--resume", str(run)],
        ):
            done = subprocess.run([sys.executable, "-m", "fedsim", *command, "-q"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert gcs.get_all_job_info() == {}
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(30)
        shutil.rmtree(home, ignore_errors=True)


STRAY = "import os\nopen(os.environ['FEDSIM_CAUGHT'], 'a').write(__name__)\nraise SystemExit('stray')\n"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("command", ["script", "module"])
def test_nothing_is_imported_from_the_current_directory(command: str, tmp_path: Path) -> None:
    """A stray numpy.py, torch.py and a clone of this project where the command is typed."""
    pytest.importorskip("ray")
    place = tmp_path / "place"
    place.mkdir()
    for name in ("numpy", "torch", "strategies", "pydantic"):
        (place / f"{name}.py").write_text(STRAY)
    caught = tmp_path / "caught"
    program = [str(Path(sys.executable).parent / "fedsim")] if command == "script" else [sys.executable, "-m", "fedsim"]
    options = [*TINY_FLAGS, "--rounds=1", f"--out={tmp_path}", "--engine=ray", "--set=engine.num_workers=1", "-q"]
    done = subprocess.run(
        [*program, "run", *options], cwd=place, env={**os.environ, "FEDSIM_CAUGHT": str(caught)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not caught.exists(), caught.read_text()
    in_process = fedsim.run(TINY, overrides={"rounds": 1, "out": str(tmp_path), "name": "here"})
    hashes = [json.loads((tmp_path / n / "summary.json").read_text())["model_sha256"] for n in ("tiny", "here")]
    assert hashes[0] == hashes[1]
    assert in_process.folder == tmp_path / "here"
    recorded = json.loads((tmp_path / "tiny" / "environment.json").read_text())
    assert len(recorded["code_sha256"]) == 64
