"""A disk that is full gets one line, and the files before stay as they are."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.one_line import assert_one_line, snapshot
from tests.tiny_runs import TINY_FLAGS, Cli


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a limit, so that a larger one fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_at_first(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with full_disk(100):
        outcome = cli("run", *TINY_FLAGS)
    assert (outcome.code, outcome.out) == (2, "")
    assert_one_line(outcome.err, "runs/tiny: cannot be written (File too large); choose another --out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_when_a_run_is_replaced(
    tiny_run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/tiny")
    before = snapshot(tmp_path)
    with full_disk(100):
        outcome = cli("run", *TINY_FLAGS, "--force")
    assert outcome.code == 2
    assert_one_line(outcome.err, "runs/tiny: cannot be written (File too large); choose another --out")
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("no_pictures")
def test_a_disk_that_fills_up_later(tiny_run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run whose next checkpoint does not fit: it fails, keeps the one before, and goes on later."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(tiny_run, "tiny"))
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"rounds": 5}))
    before = snapshot(folder / "checkpoints")
    limit = (folder / "checkpoints" / "round-00000003" / "tensors.safetensors").stat().st_size - 1
    with full_disk(limit):
        outcome = cli("run", "--resume", "tiny")
    assert outcome.code == 1
    assert_one_line(outcome.err, "tiny: cannot be written ... free some room, then: fedsim run --resume tiny")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["rounds_done"]) == ("failed", 4)
    left = snapshot(folder / "checkpoints")
    assert {path: left.get(path) for path in before} == before
    assert cli("run", "--resume", "tiny", "--quiet").code == 0
    assert json.loads((folder / "summary.json").read_text())["rounds_done"] == 5
