import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.runs.folder import RunFolder
from fedsim.runs.sweep import plan
from tests.tiny_runs import Cli

TINY_SWEEP = [
    "sweep", "--set=clients=4", "--set=rounds=2", "--set=model.name=mlp", "--set=model.hidden=[[8]]",
    "--set=training.vectorize=never", "--set=training.epochs=1", "--set=checkpoint_every=1",
]  # fmt: skip


def test_runs_that_fail_are_kept_apart_and_the_same_command_goes_on(cli: Cli, tmp_path: Path) -> None:
    command = [*TINY_SWEEP, "--seeds=3", "--set=faults.error=[0,1]", f"--out={tmp_path}", "--jobs=2"]
    first = cli(*command)
    folder = tmp_path / "sweep"
    good, bad = folder / "hidden8-error0-seed3", folder / "hidden8-error1-seed3"
    assert first.code == 1
    assert "1 of 2 runs failed, the first hidden8-error1-seed3: round 1: 0 good replies" in first.err
    assert "min_replies is 1" in (folder / "logs" / f"{bad.name}.log").read_text()
    assert not (folder / "logs" / f"{good.name}.log").exists()
    assert (RunFolder.open(good).status, RunFolder.open(bad).status) == ("finished", "stopped")
    assert RunFolder.open(good).option("seed") == 3
    before = (good / "summary.json").stat()
    again = cli(*command, "--quiet")
    assert (again.code, again.out) == (1, f"{folder}\n")
    assert (good / "summary.json").stat() == before  # it was not run again
    # The same name with other options is another sweep.
    other = cli(*command, "--set=training.lr=0.5")
    assert other.code == 2
    assert "has training.lr=0.1, not 0.5; choose another --name" in other.err


def test_runs_are_packed_onto_cores_or_onto_the_gpus_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan({}, {"training.lr": [0.1, 0.2]}, [0, 1], "s")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert planned.slots(None) == [None] * 3
    assert planned.slots(9) == [None] * 4  # there are no more runs
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert planned.slots(None) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert planned.slots(3) == ["5", "7", "5"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_that_is_killed_twice_comes_to_the_same(cli: Cli, tmp_path: Path) -> None:
    options = [*TINY_SWEEP[1:], "--set=rounds=12", "--seeds=0-2", "--set=strategy.name=[fedavg,fedprox]"]
    options += ["--set=training.lr=[0.05,0.2]", "--jobs=2", "--quiet"]
    assert cli("sweep", *options, f"--out={tmp_path / 'whole'}").code == 0
    command = [sys.executable, "-m", "fedsim", "sweep", *options, f"--out={tmp_path / 'killed'}"]
    folder = tmp_path / "killed" / "sweep"
    for number, how in ((1, signal.SIGKILL), (3, signal.SIGTERM)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(folder.glob("*/summary.json"))) < number:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, how)
        process.wait()
        time.sleep(1)  # for the runs that it leaves behind to end, too
    ended = [json.loads(file.read_bytes())["status"] for file in folder.glob("*/summary.json")]
    assert len(ended) < 12 or "stopped" in ended
    assert cli("sweep", *options, f"--out={tmp_path / 'killed'}").code == 0
    tables = [cli("table", tmp_path / which / "sweep", "--format=csv").out for which in ("whole", "killed")]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") == 5
