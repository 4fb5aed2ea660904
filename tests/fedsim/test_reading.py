"""Files that would take all memory, or never end, are refused in one line."""

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.one_line import assert_refused
from tests.tiny_runs import Cli

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
"""An alias bomb: 12 short lines, 10^12 values."""
MAPS = "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 40))


@pytest.mark.parametrize("bomb", [LAUGHS, MAPS], ids=["lists", "mappings"])
def test_an_alias_bomb(bomb: str, copied: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "bomb.yaml").write_text(bomb)
    for file in ("config.yaml", "environment.json"):
        before = (copied / file).read_bytes()
        (copied / file).write_text(bomb)
        begun = time.monotonic()
        for command in (["show", copied], ["report", copied], ["run", "--resume", copied]):
            assert_refused(cli(*command), "holds more than 100,000 values")
        assert time.monotonic() - begun < 10
        (copied / file).write_bytes(before)
    assert_refused(cli("run", "--config", tmp_path / "bomb.yaml"), "holds more than 100,000 values")


@pytest.mark.parametrize("value", ["[" * 5000, "{a: " * 5000, "[" * 5000 + "]" * 5000])
def test_deep_brackets(value: str, cli: Cli) -> None:
    assert_refused(cli("run", "--set", f"model.hidden={value}"), "not valid YAML")


@pytest.mark.parametrize(
    "options",
    [
        ["run", "--config", "pipe"], ["run", "--dataset", "npz:pipe"], ["run", "--dataset", "csv:pipe"],
        ["run", "--dataset", "csv:pipe.gz"], ["show", "run"],
        ["unlearn", "run2", "--forget=indices=pipe", "--method=ct"],
    ],
    ids=lambda options: " ".join(options),
)  # fmt: skip
def test_a_pipe_nobody_writes_to(
    options: list[str], copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(copied, "run2")
    for pipe in ("pipe", "pipe.gz", "run/pipe"):
        os.mkfifo(pipe)
    (copied / "summary.json").unlink()
    os.mkfifo(copied / "summary.json")
    assert_refused(cli(*options), "pipe or a device|neither a file nor a preset")
