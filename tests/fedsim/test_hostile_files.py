"""Files that are made to hang, flood, crash or steer the program cost one line."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.one_line import assert_refused
from tests.tiny_runs import TINY_FLAGS, Cli


def test_a_table_that_unpacks_to_too_much(tmp_path: Path, cli: Cli) -> None:
    with gzip.open(tmp_path / "bomb.csv.gz", "wb", compresslevel=9) as file:
        file.write(b"a,b\n" + b"0,0\n" * 16_000_000)
    assert_refused(
        cli("run", "--dataset", f"csv:{tmp_path / 'bomb.csv.gz'}"), "unpacks to more than 200 times its size"
    )


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.data.npz._MOST_RATIO", -300)  # a real one takes seconds to write
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((10, 4, 4), np.uint8), y=np.arange(10) % 2)
    monkeypatch.setattr("fedsim.data.npz._SPARE_BYTES", 0)
    assert_refused(cli("run", "--dataset", f"npz:{tmp_path / 'bomb.npz'}"), "unpacks to .* times its size")


@pytest.mark.parametrize("content", ["null", "[]", "7", "{", "[" * 9999, '{"a": null}', '{"a": {}}'])
def test_whatever_lies_in_the_cache_of_measurements(
    content: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "fedsim").mkdir()
    (tmp_path / "fedsim" / "cohort.json").write_text(content)
    flags = [flag for flag in TINY_FLAGS if "cohort" not in flag]
    assert cli("run", *flags, "--rounds=1", f"--out={tmp_path}", "-q").code == 0


@pytest.mark.parametrize("number", ["1e999", "-1", "1" + "0" * 30, "1" + "0" * 5000, "1.5", '"3"', "true", "NaN"])
@pytest.mark.parametrize("key", ["rounds_done", "rounds", "failures", "class_counts", "wall_time_s", "seed"])
def test_forged_numbers(key: str, number: str, copied: Path, cli: Cli) -> None:
    forged = json.loads((copied / "summary.json").read_text()) | {key: "HERE"}
    del forged["seal"]  # who forges can seal, too
    text = json.dumps(forged).replace('"HERE"', f"[{number}]" if key == "class_counts" else number)
    (copied / "summary.json").write_text(text)
    for command in (["show", copied], ["report", copied]):
        outcome = cli(*command)
        assert outcome.code in (0, 2)
        if outcome.code == 2:
            assert_refused(outcome, "summary.json: malformed")


def test_what_a_file_says_does_not_steer_the_terminal(copied: Path, cli: Cli) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m"
    for name, key in (("summary.json", "name"), ("summary.json", "strategy"), ("privacy.json", "releases")):
        content = json.loads((copied / name).read_text())
        content.pop("seal", None)
        if key == "releases":
            content["releases"][0] |= {"note": evil, "what": evil}
        else:
            content[key] = evil
        (copied / name).write_text(json.dumps(content))
    (copied / "config.yaml").write_text((copied / "config.yaml").read_text() + '"nul\\e[2J": 1\n')
    for command in (["show", copied], ["privacy", copied], ["run", "--config", copied], ["run", "--resume", copied]):
        outcome = cli(*command)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", outcome.out + outcome.err)


def test_every_file_of_a_run_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    options = [*TINY_FLAGS, "--rounds=2", f"--out={tmp_path}", "--strategy=fedrep", "--set=history.keep=updates", "-q"]
    program = (
        "import os, sys; os.umask(0o027); import fedsim.runs.runner as runner; from fedsim.cli.main import main\n"
        "runner._write_pictures = lambda folder: None; main(sys.argv[1:])"
    )
    subprocess.run([sys.executable, "-c", program, "run", *options], check=True, stdout=subprocess.DEVNULL)
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "tiny").rglob("*") if path.is_file()}
    assert modes == {"0o640"}


def test_flower_does_not_report_home() -> None:
    program = "import os, fedsim; from flwr.supercore import telemetry; print(os.environ['FLWR_TELEMETRY_ENABLED'])"
    environment = {name: value for name, value in os.environ.items() if name != "FLWR_TELEMETRY_ENABLED"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr
