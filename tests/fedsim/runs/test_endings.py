"""How a run ends early: by a signal, by divergence, or by too few replies for its rule."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import Diverged, TooFewReplies
from fedsim.interrupts import Heard, checkpoint_wanted, heeding_signals, uninterrupted
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.progress import QuietProgress
from fedsim.sealed import sha256
from tests.tiny_runs import TINY, TINY_FLAGS, Cli

pytestmark = pytest.mark.usefixtures("no_pictures")


class Sends(QuietProgress):
    """Sends this process a signal after round 2."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.warnings: list[str] = []

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        if server_round == 2:
            signal.raise_signal(self.number)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_ends_a_run_as_ctrl_c_does(number: signal.Signals, tmp_path: Path) -> None:
    options = {"out": str(tmp_path), "checkpoint_every": 1000, "rounds": 4}
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; to go on: fedsim\.resume\("):
        fedsim.run(TINY, overrides=options, progress=Sends(number))
    assert {n: signal.getsignal(n) for n in before} == before
    run = tmp_path / "tiny"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["reason"], summary["rounds_done"]) == ("stopped", "interrupted", 2)
    whole = fedsim.run(TINY, overrides={**options, "name": "whole"}).folder
    assert sha256(fedsim.resume(run).folder / "model.safetensors") == sha256(whole / "model.safetensors")


def test_the_early_signal_of_a_scheduler_leaves_a_checkpoint(tmp_path: Path) -> None:
    kept: list[int] = []

    class Watch(Sends):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            super().round_done(server_round, metrics)
            checkpoint = load_latest(tmp_path / "tiny")
            kept.append(0 if checkpoint is None else checkpoint.round)

    options = {"out": str(tmp_path), "checkpoint_every": 1000, "rounds": 5}
    fedsim.run(TINY, overrides=options, progress=Watch(signal.SIGUSR1))
    assert kept == [0, 0, 3, 3, 5]
    assert not checkpoint_wanted()


def test_signals_wait_for_what_must_not_be_interrupted_and_others_handlers_stay() -> None:
    seen: list[str] = []
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        heard = Heard()
        try:
            with heeding_signals() as heard, uninterrupted():
                signal.raise_signal(number)
                seen.append(number.name)
        except KeyboardInterrupt:
            seen.append("ended")
        assert heard.ending == (None if number == signal.SIGINT else number)
    assert seen == ["SIGTERM", "ended", "SIGHUP", "ended", "SIGINT", "ended"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with heeding_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_a_signal_to_the_real_program(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedsim", "run", *TINY_FLAGS, "--rounds=5000", "--set=checkpoint_every=5000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("round 2/"):
                process.send_signal(number)
        assert process.stderr
        assert process.stderr.read() == "error: interrupted; to go on: fedsim run --resume runs/tiny\n"
    assert process.returncode == code
    assert load_latest(tmp_path / "runs" / "tiny") is not None


def test_a_signal_before_the_command_has_begun_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.cli.main.app", lambda *args, **options: signal.raise_signal(signal.SIGTERM))
    assert cli("run") == (143, "", "error: interrupted\n")


# Divergence ----------------------------------------------------------------------------------------------------------

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
    assert (refused.code, "is diverged, and only a finished run forgets; run it anew" in refused.err) == (2, True)
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


# Rules that need so many replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "needed"), [("krum", 5), ("multikrum", 5), ("bulyan", 7)])
def test_a_rule_whose_condition_does_not_hold_fails_the_round(rule: str, needed: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "strategy.name": rule, "strategy.num_malicious_nodes": 1, "clients": needed, "rounds": 1, "out": str(tmp_path),
    }  # fmt: skip
    assert fedsim.run(TINY, overrides=options).final
    with pytest.raises(TooFewReplies, match=f"round 1: . good replies, but {rule} needs at least {needed} against 1"):
        fedsim.run(TINY, overrides={**options, "faults.dropout": 0.4, "name": "fewer"})
    assert json.loads((tmp_path / "fewer" / "summary.json").read_text())["status"] == "stopped"
