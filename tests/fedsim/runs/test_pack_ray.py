"""Sweeps on a cluster of two nodes: what is killed goes on, what fails is kept apart, and folders are brought back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.config.run import EngineConfig
from fedsim.runs import pack_ray
from fedsim.runs.folder import RunFolder
from fedsim.runs.pack import RunJob
from fedsim.runs.pack_ray import share_of
from tests.fedsim.two_nodes import TwoNodes
from tests.tiny_runs import Cli

OPTIONS = {
    "clients": 4, "rounds": 12, "model.name": "mlp", "model.hidden": [[8]], "training.vectorize": "never",
    "training.epochs": 1, "checkpoint_every": 1,
}  # fmt: skip
FLAGS = [f"--set={key}={value}" for key, value in OPTIONS.items()]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--jobs=2", "--ray-address=auto"], "give --jobs ray, too"),
        (["--jobs=rey"], "must be at least 1, or ray"),
        (["--jobs=ray", "--set=engine.name=ray"], "each run is one Ray task"),
        (["--jobs=ray", "--ray-address=127.0.0.1:1"], "no Ray cluster answers"),
    ],
)
def test_bad_input(cli: Cli, tmp_path: Path, more: list[str], told: str) -> None:
    outcome = cli("sweep", f"--out={tmp_path}", *more)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert told in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_run_takes_its_threads_and_its_share_of_a_gpu() -> None:
    assert share_of(EngineConfig(threads=4), has_gpus=False) == (4, 0)
    assert share_of(EngineConfig(name="local", num_workers=3), has_gpus=False) == (3, 0)
    assert share_of(EngineConfig(), has_gpus=True) == (1, 1)
    assert share_of(EngineConfig(gpus_per_worker=0.25), has_gpus=True) == (1, 0.25)
    assert share_of(EngineConfig(device="cpu"), has_gpus=True) == (1, 0)


def wait_for(folder: Path, pattern: str, number: int, process: subprocess.Popen[bytes]) -> None:
    while len(list(folder.glob(pattern))) < number:
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_goes_on_after_kills_of_itself_and_of_a_node(cli: Cli, two_nodes: TwoNodes, tmp_path: Path) -> None:
    options = [*FLAGS, "--seeds=0-3", "--set=training.lr=[0.05,0.2]", "--quiet"]
    assert cli("sweep", *options, f"--out={tmp_path / 'here'}").code == 0
    there = ["--jobs=ray", f"--ray-address=127.0.0.1:{two_nodes.port}", f"--out={tmp_path / 'there'}"]
    command, folder = [sys.executable, "-m", "fedsim", "sweep", *options, *there], tmp_path / "there" / "sweep"
    process = subprocess.Popen(command, env=two_nodes.environment)
    wait_for(folder, "*/summary.json", 1, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # for the runs that it leaves behind to end, too
    process = subprocess.Popen(command, env=two_nodes.environment)
    wait_for(folder, "*/summary.json", 3, process)
    two_nodes.kill(1)
    assert process.wait() == 0
    tables = [cli("table", tmp_path / which / "sweep", "--format=csv").out for which in ("here", "there")]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") == 3
    assert not list(folder.glob(".*"))


WITHOUT_A_SHARED_FOLDER = """
import contextlib, sys
from fedsim.cli.main import main
from fedsim.runs import pack_ray

@contextlib.contextmanager
def unseen(folder):
    yield folder / "no-such-file"

pack_ray._marked = unseen
main(sys.argv[1:])
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_folders_that_nodes_do_not_share_are_brought_back(cli: Cli, two_nodes: TwoNodes, tmp_path: Path) -> None:
    options = ["sweep", *FLAGS, "--seeds=0", "--set=faults.error=[0,1]", "--quiet"]
    assert cli(*options, f"--out={tmp_path / 'here'}").code == 1
    there = ["--jobs=ray", f"--ray-address=127.0.0.1:{two_nodes.port}", f"--out={tmp_path / 'there'}"]
    command = [sys.executable, "-c", WITHOUT_A_SHARED_FOLDER, *options, *there]
    done = subprocess.run(command, env=two_nodes.environment, capture_output=True, text=True)
    assert (done.returncode, "1 of 2 runs failed, the first hidden8-error1-seed0: round 1" in done.stderr) == (1, True)
    one, other = (RunFolder.open(tmp_path / out / "sweep" / "hidden8-error0-seed0") for out in ("here", "there"))
    assert one.summary is not None
    assert other.summary is not None
    assert one.summary.model_sha256 == other.summary.model_sha256
    bad = tmp_path / "there" / "sweep" / "hidden8-error1-seed0"
    assert RunFolder.open(bad).status == "stopped"
    assert "0 good replies" in (bad.parent / "logs" / f"{bad.name}.log").read_text()


@pytest.mark.slow
def test_what_was_brought_back_before_a_node_was_lost_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_ray, "_BRING_EVERY_S", 0.0)
    monkeypatch.setattr(pack_ray, "_LOOK_EVERY_S", 0.05)
    layers = [{**OPTIONS, "model.hidden": [8], "rounds": 40}]
    job = RunJob("r", tmp_path / "driver" / "r", layers, layers, tmp_path / "driver" / "logs" / "r.log")
    told = list(pack_ray._on_node(job, tmp_path / "none", pack_ray._code(), None))
    assert (told[0], told[-1]) == (("began",), ("ended", None))
    brought = [what[0] for kind, *what in told if kind == "folder"]
    assert len(brought) > 2
    pack_ray._unpack(job, brought[len(brought) // 2])
    half = RunFolder.open(job.folder)
    assert half.status == "unfinished"
    before = pack_ray._packed(job.folder, None)
    again = list(pack_ray._on_node(job, tmp_path / "none", pack_ray._code(), before))
    assert again[-1] == ("ended", None)
    models = []
    for content in (brought[-1], again[-2][1]):
        pack_ray._unpack(job, content)
        assert RunFolder.open(job.folder).rounds_done == 40
        models.append((job.folder / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    assert not job.log.exists()
    # Another version of the code would come to other numbers.
    refused = list(pack_ray._on_node(job, tmp_path / "none", {**pack_ray._code(), "torch": "1.0"}, None))
    assert "a node has another torch" in refused[-1][1]
