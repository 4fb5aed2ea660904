"""`fedsim run`."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.runs.checkpoint import load_latest
from fedsim.sealed import sha256
from tests.tiny_runs import TINY, TINY_FLAGS, Cli

FEDSIM = [sys.executable, "-m", "fedsim"]


def test_a_run_in_an_empty_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsim.report.figures._DPI", 50)
    outcome = cli("run", *TINY_FLAGS)
    assert (outcome.code, outcome.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert {path.name for path in Path("runs/tiny").iterdir()} == {
        "config.yaml", "environment.json", "model.json", "partition.npz", "metrics.jsonl", "checkpoints",
        "model.safetensors", "summary.json", "plots", "report.html", "privacy.json",
    }  # fmt: skip
    # A headline and a line per round on what is no terminal, then the summary.
    head, engine, vectorize, *rounds, _ = outcome.out.splitlines()[:7]
    assert head == "fedavg on digits: 6 clients, 3 rounds, mlp, seed 0"
    assert (engine.split()[0], vectorize.split()[0]) == ("engine:", "vectorize:")
    for number, line in enumerate(rounds, 1):
        assert re.fullmatch(rf"round {number}/3  acc 0\.\d{{4}}  loss \d\.\d{{4}}  \d+ clients/s  eta \d+ s", line)
    assert "\x1b" not in outcome.out
    assert "tiny  finished  round 3 of 3" in outcome.out

    shown = cli("show", "runs/tiny")
    assert (shown.code, shown.err) == (0, "")
    assert outcome.out.endswith(shown.out)

    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
    again = cli("run", *TINY_FLAGS, "--quiet", "--force")
    assert again == (0, "runs/tiny\n", "")
    assert not Path("runs/tiny/plots").exists()  # it was replaced, not written over


def test_a_finished_run_resumes_to_itself(cli: Cli, tmp_path: Path, no_pictures: None) -> None:
    assert cli("run", *TINY_FLAGS, "--quiet", "--out", tmp_path).code == 0
    before = sha256(tmp_path / "tiny" / "model.safetensors")
    assert cli("run", "--resume", tmp_path / "tiny", "--quiet") == (0, f"{tmp_path}/tiny\n", "")
    assert sha256(tmp_path / "tiny" / "model.safetensors") == before


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("inprocess", "local"),
        pytest.param("ray", "inprocess", marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param("inprocess", "ray", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_a_run_goes_on_with_another_engine_to_the_same_bits(
    first: str, then: str, cli: Cli, tmp_path: Path, tiny_run: Path, no_pictures: None
) -> None:
    begun = [*TINY_FLAGS, "--rounds=1", "--engine", first, "--set=engine.num_workers=2", "--out", tmp_path, "--quiet"]
    assert cli("run", *begun).code == 0
    run = tmp_path / "tiny"
    more = ["--rounds", "3", "--engine", then, "--set=engine.num_workers=1", "--set=engine.retries=0"]
    told = cli("run", "--resume", run, *more)
    assert (told.code, told.err) == (0, "")
    assert f"engine: {then} (as asked)" in told.out
    assert sha256(run / "model.safetensors") == sha256(tiny_run / "model.safetensors")


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on_to_the_same_bits(
    cli: Cli, tmp_path: Path, no_pictures: None
) -> None:
    longer = [*TINY_FLAGS, "--rounds=150", "--set=checkpoint_every=1000"]
    with subprocess.Popen(
        [*FEDSIM, "run", *longer],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            if line.startswith("round 2/"):
                process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "error: interrupted; to go on: fedsim run --resume runs/tiny\n"
    assert process.returncode == 130
    folder = tmp_path / "runs" / "tiny"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("stopped", "interrupted")
    assert 2 <= summary["rounds_done"] < 150
    checkpoint = load_latest(folder)
    assert checkpoint is not None
    assert checkpoint.round == summary["rounds_done"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == checkpoint.round

    assert cli("run", "--resume", folder, "--quiet").code == 0
    undisturbed = fedsim.run(TINY, overrides={"rounds": 150, "out": str(tmp_path)})
    assert sha256(folder / "model.safetensors") == sha256(undisturbed.folder / "model.safetensors")


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    """The program under a pseudo-terminal of 100 columns, without pictures."""
    program = "import fedsim.runs.runner as r, fedsim.cli.main as m; r._write_pictures = lambda folder: None; m.main()"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", program, "run", *TINY_FLAGS],
        cwd=tmp_path,
        env=environment,
        stdout=slave,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
        assert process.stderr
        assert process.stderr.read() == b""
    os.close(master)
    assert process.returncode == 0
    text = shown.decode()
    assert "\x1b[" in text
    assert "━" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "round 3/3" in plain
    assert re.search(r"acc 0\.\d{4}  loss \d\.\d{4}  \d+ clients/s", plain)
    assert "tiny  finished  round 3 of 3" in plain


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's word for a pseudo-terminal whose other end is closed
        return b""
