"""Engines are found by name, and a user's file may register one."""

from __future__ import annotations

from pathlib import Path

from tests.tiny_runs import Cli


def test_an_engine_of_ones_own_comes_to_the_same_bits(page_folder: Path, cli: Cli) -> None:
    options = [
        "--clients=4",
        "--rounds=2",
        "--model=mlp",
        "--set=training.chunk=3",
        "--set=training.vectorize=never",
        "--quiet",
    ]
    done = cli("run", "--engine=./timed.py", "--name=timed", *options)
    assert (done.code, done.err) == (0, "")
    assert [line.split(" in ")[0] for line in done.out.splitlines()[:2]] == ["round 1: 2 chunks", "round 2: 2 chunks"]
    assert cli("run", "--engine=inprocess", "--name=plain", *options).code == 0
    timed, plain = (page_folder / "runs" / name / "model.safetensors" for name in ("timed", "plain"))
    assert timed.read_bytes() == plain.read_bytes()
    assert f"name: {page_folder}/timed.py" in (page_folder / "runs" / "timed" / "config.yaml").read_text()
    assert cli("run", "--resume", page_folder / "runs" / "timed", "--rounds=3", "--quiet").code == 0
