"""Which engine `auto` stands for, and whether clients are trained at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.config.resolve import resolve
from fedsim.engine.forks import can_fork
from fedsim.engine.select import choose_engine
from fedsim.errors import FedsimError
from tests.tiny_runs import Cli

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system does not fork")


def test_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**options: object) -> str:
        return choose_engine(resolve({f"engine.{name}": value for name, value in options.items()}))[1]

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert chosen(device="cpu") == "auto (two rounds in this process decide on the others)"
    assert chosen(device="cpu", threads=2) == "inprocess (a worker takes all cores)"
    assert chosen(device="cpu", name="local") == "local (as asked)"
    with pytest.raises(FedsimError, match=r"engine.name: local has no use here, as a worker takes all cores"):
        chosen(device="cpu", name="local", threads=2)


NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1) * float(x.abs().max() > 0))  # a value that vmap cannot give
"""


def test_a_model_that_cannot_be_vectorised_is_trained_one_client_at_a_time(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "net.py").write_text(NET)
    options = [f"--out={tmp_path}", f"--model={tmp_path / 'net.py'}:Net", "--clients=4", "--rounds=1"]
    done = cli("run", *options, "--name=auto")
    assert done.code == 0
    assert "torch.func.vmap does not know all operations of the model" in done.out
    refused = cli("run", *options, "--name=always", "--set=training.vectorize=always")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert refused.err.startswith("error: training.vectorize: always: clients cannot train ")
    assert not (tmp_path / "always").exists()


@pytest.mark.slow
def test_an_own_model_that_changed_is_measured_anew(tmp_path: Path) -> None:
    """In processes of their own, since one process keeps the module that it loaded first."""
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "settings"), "XDG_CACHE_HOME": str(tmp_path)}
    options = ["--model=./net.py:Net", "--clients=4", "--rounds=1", "--set=training.vectorize=always", "--quiet"]

    def run(name: str, text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "net.py").write_text(text)
        command = [sys.executable, "-m", "fedsim", "run", *options, f"--name={name}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    refused = run("one", NET)
    assert refused.returncode == 2
    assert "torch.func.vmap does not know" in refused.stderr
    done = run("two", NET.replace("float(x.abs().max() > 0)", "1.0"))
    assert done.returncode == 0, done.stderr
    speedups = json.loads((tmp_path / "fedsim" / "cohort.json").read_text()).values()
    assert [speed > 0 for speed in speedups] == [False, True]  # the other run's is still there
