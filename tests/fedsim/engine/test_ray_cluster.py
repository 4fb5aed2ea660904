"""A cluster of two nodes on this machine, each a raylet of its own: joined with a token, cut in two."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedsim
from tests.fedsim.two_nodes import TwoNodes
from tests.tiny_runs import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


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
    assert "requires a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to" in refused.stderr
    with subprocess.Popen(command(two_nodes, tmp_path, rounds), env=two_nodes.environment) as run:
        metrics = tmp_path / "there" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text()):
            assert run.poll() is None
            time.sleep(0.05)
        two_nodes.kill(1)
        assert run.wait() == 0
    model = "model.safetensors"
    assert (tmp_path / "there" / model).read_bytes() == (here / model).read_bytes()
