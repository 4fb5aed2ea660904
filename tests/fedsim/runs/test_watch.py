"""A run that diverges is told of."""

import json
import signal
from pathlib import Path

import pytest

import fedsim
from fedsim.errors import Diverged, TooFewReplies
from fedsim.sealed import sha256
from tests.fedsim.runs.signals import Sends
from tests.tiny_runs import TINY, Cli

pytestmark = pytest.mark.usefixtures("no_pictures")

WILD = {"training.lr": 1e3, "rounds": 3}


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam", "scaffold", "fednova", "ditto"])
def test_a_run_that_diverges_is_warned_of_once_and_marked(strategy: str, tmp_path: Path, cli: Cli) -> None:
    watch = Sends(signal.SIGUSR1)
    try:
        folder = fedsim.run(
            TINY, overrides={**WILD, "strategy.name": strategy, "out": str(tmp_path)}, progress=watch
        ).folder
    except TooFewReplies:  # updates that are not finite are refused already
        return
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert len(watch.warnings) == 1
    assert watch.warnings[0].startswith("round 1: the run diverges (")
    shown = cli("show", folder)
    assert "diverged" in shown.out
    assert "--resume" not in shown.out
    refused = cli("unlearn", folder, "--method=finetune", "--forget=class=3")
    assert (refused.code, "is diverged, and only a finished run can forget; run it anew" in refused.err) == (2, True)
    assert summary["model_sha256"] == sha256(folder / "model.safetensors")


def test_it_stops_early_when_asked_to(tmp_path: Path) -> None:
    options = {**WILD, "rounds": 50, "stop_on_divergence": True, "out": str(tmp_path)}
    with pytest.raises(Diverged, match=r"round 1: the run diverges \(\w+/loss is [^)]*\); lower training.lr"):
        fedsim.run(TINY, overrides=options)
    summary = json.loads((tmp_path / "tiny" / "summary.json").read_text())
    assert (summary["status"], summary["rounds_done"]) == ("diverged", 1)


def test_a_sound_run_is_not_warned_of(tiny_run: Path, tmp_path: Path) -> None:
    watch = Sends(signal.SIGUSR1)
    folder = fedsim.run(TINY, overrides={"out": str(tmp_path), "stop_on_divergence": True}, progress=watch).folder
    assert (json.loads((folder / "summary.json").read_text())["status"], watch.warnings) == ("finished", [])
    assert sha256(folder / "model.safetensors") == sha256(tiny_run / "model.safetensors")
