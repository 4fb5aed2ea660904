"""Signals end a run as Ctrl-C does."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.interrupts import Heard, checkpoint_wanted, heeding_signals, uninterrupted
from fedsim.runs.checkpoint import load_latest
from fedsim.sealed import sha256
from tests.fedsim.runs.signals import Sends
from tests.tiny_runs import TINY, TINY_FLAGS, Cli

pytestmark = pytest.mark.usefixtures("no_pictures")


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


def test_an_interrupt_that_a_library_drops_ends_the_run_at_the_next_round(tmp_path: Path) -> None:
    class Drops(Sends):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            with contextlib.suppress(KeyboardInterrupt):
                super().round_done(server_round, metrics)

    with pytest.raises(KeyboardInterrupt, match=r"interrupted; to go on"):
        fedsim.run(TINY, overrides={"out": str(tmp_path), "rounds": 4}, progress=Drops(signal.SIGTERM))
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["rounds_done"] == 2


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_of_two_signals_at_once_the_first_ends_the_work(second: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    with heeding_signals() as heard:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(second)  # while the line that tells of the first is being written
        assert heard.ending == signal.SIGTERM
        heard.at -= 60
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert {n: signal.getsignal(n) for n in before} == before


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
        assert heard.ending == number
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
