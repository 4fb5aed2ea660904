"""A run that is killed, at any moment, ends after --resume with the bits of an undisturbed one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("strategy", ["fedavg", pytest.param("fedloge", marks=pytest.mark.slow)])
def test_killed_and_resumed_to_the_same_bits(tmp_path: Path, strategy: str) -> None:
    """Three of eight clients a round: what the others keep has to come through the checkpoint too."""
    command = [sys.executable, "-m", "tests.fedsim.runs.kill_and_resume", tmp_path, strategy, "0"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    whole = told["whole"]
    assert whole["rounds"] == [1, 2, 3, 4, 5]
    assert whole["checkpoint"] == "round-00000005"
    assert whole["left"] == []
    assert len(whole["history"]) == 5 + 3 * (1 + 3)  # rounds; the model and three clients of every second
    for killed in told["killed"]:
        kills = killed.pop("kills")
        assert killed == whole, (kills, told["points"])
    assert sum(not finished for *_, finished in told["points"]) >= 3  # all but the one that is left to chance
    assert told["resumed again"] == [whole, whole]  # resuming a finished run changes nothing
