"""One process at a time: nothing is deleted, overwritten or mixed by another start, resume or unlearning."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fedsim
from fedsim.errors import FedsimError, InUse, RunFailed
from fedsim.runs.progress import QuietProgress
from fedsim.runs.reserve import held, put_in_place, sweep, temporary_for
from tests.tiny_runs import TINY, TINY_FLAGS, Cli

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_the_slower_of_two_starts_deletes_nothing(tmp_path: Path) -> None:
    """Both begin before either has a folder; the slower one prepares while the faster one finishes."""
    programs = [
        [sys.executable, "-m", "fedsim", "run", *TINY_FLAGS, f"--out={tmp_path / 'runs'}", "-q"] for _ in range(2)
    ]
    children = [subprocess.Popen(p, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for p in programs]
    told = sorted((child.wait(), child.communicate()[1]) for child in children)
    assert [code for code, _ in told] == [0, 2], told
    assert re.search(r"(another process is at work on this run|exists already)", told[1][1])
    assert json.loads((tmp_path / "runs" / "tiny" / "summary.json").read_text())["status"] == "finished"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]


def test_a_second_start_while_the_first_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, at the one moment at which it went wrong."""
    seen: list[str] = []
    prepare = fedsim.runs.runner.Simulation  # type: ignore[attr-defined]

    def meddle(*args: object) -> object:
        monkeypatch.setattr("fedsim.runs.runner.Simulation", prepare)
        with pytest.raises(InUse, match="another process is at work on this run") as refused:
            fedsim.run(TINY, overrides={"out": str(tmp_path)})
        seen.append(str(refused.value))
        return prepare(*args)

    monkeypatch.setattr("fedsim.runs.runner.Simulation", meddle)
    assert fedsim.run(TINY, overrides={"out": str(tmp_path)}).final
    assert len(seen) == 1


def meddler(action: Callable[[], object], at: int = 2) -> QuietProgress:
    class Meddler(QuietProgress):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            if server_round == at:
                action()

    return Meddler()


def test_nothing_replaces_or_uses_a_run_that_goes_on(tmp_path: Path) -> None:
    seen = []

    def meddle() -> None:
        for attempt in (
            lambda: fedsim.run(TINY, overrides={"out": str(tmp_path)}, force=True),
            lambda: fedsim.run(TINY, overrides={"out": str(tmp_path)}),
            lambda: fedsim.resume(tmp_path / "tiny"),
        ):
            with pytest.raises(InUse):
                attempt()
            seen.append(attempt)

    fedsim.run(TINY, overrides={"out": str(tmp_path)}, progress=meddler(meddle))
    assert len(seen) == 3


def test_nothing_replaces_a_run_that_is_unlearned(tiny_run: Path, tmp_path: Path) -> None:
    from unlearning.pipeline.runner import unlearn

    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    seen: list[Path] = []

    def say(line: str) -> None:
        if seen:
            return
        seen.append(run)
        for attempt in (
            lambda: fedsim.run(TINY, overrides={"out": str(tmp_path)}, force=True),
            lambda: fedsim.resume(run),
        ):
            with pytest.raises(InUse):
                attempt()
        seen.append(unlearn(run, ["finetune"], "class=3").folder)  # the same at the same time: beside, not instead

    first = unlearn(run, ["finetune"], "class=3", say=say).folder
    assert [path.name for path in (first, seen[1])] == ["finetune-class-3", "finetune-class-3-2"]
    assert all((folder / "summary.json").is_file() for folder in (first, seen[1]))
    assert sorted(path.name for path in (run / "unlearned").iterdir()) == [first.name, seen[1].name]


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_a_folder_that_goes_away_is_one_line_at_the_next_round(tmp_path: Path, how: str) -> None:
    run = tmp_path / "tiny"

    def go_away() -> None:
        if how == "removed":
            shutil.rmtree(run)
        else:
            run.rename(tmp_path / "elsewhere")
        if how == "replaced":
            run.mkdir()

    with pytest.raises(RunFailed, match=r"tiny: was removed, renamed or replaced after \d rounds, so the run stops"):
        fedsim.run(TINY, overrides={"out": str(tmp_path)}, progress=meddler(go_away))
    assert sorted(path.name for path in tmp_path.rglob("tiny/**")) == (["tiny"] if how == "replaced" else [])
    if how != "removed":
        again = fedsim.resume(tmp_path / "elsewhere")
        whole = fedsim.run(TINY, overrides={"out": str(tmp_path / "whole")})
        models = [(result.folder / "model.safetensors").read_bytes() for result in (again, whole)]
        assert models[0] == models[1]


def test_what_killed_processes_left_is_swept_away(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    for name in (".gone.123.tmp", ".gone.124.tmp", ".mine.5.old"):
        shutil.copytree(tiny_run, tmp_path / name)
    (tmp_path / ".gone.lock").touch()
    (tmp_path / ".precious").mkdir()
    with held(tmp_path / "busy"):
        (tmp_path / ".busy.7.tmp").mkdir()
        sweep(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".busy.7.tmp", ".precious", "mine"]  # killed between two renames: the old one is back
    assert cli("show", tmp_path / "mine").code == 0


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_killed_while_it_replaces(tmp_path: Path, when: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "which").write_text("old")
    child = os.fork()
    if child == 0:
        calls, rename, remove = [0], Path.rename, shutil.rmtree

        def die(*args: object, **kwargs: object) -> object:
            calls[0] += 1
            if calls[0] == ("before", "between", "after").index(when) + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return (rename if isinstance(args[-1], Path) and len(args) == 2 else remove)(*args, **kwargs)  # type: ignore[arg-type]

        Path.rename, shutil.rmtree = die, die  # type: ignore[method-assign, assignment]
        new = temporary_for(folder)
        new.mkdir()
        (new / "which").write_text("new")
        put_in_place(new, folder)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with held(folder):
        assert (folder / "which").read_text() == {"before": "old", "between": "old", "after": "new"}[when]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != run)  # root may write anywhere
    monkeypatch.setattr("fedsim.runs.runner.Simulation", None)
    monkeypatch.setattr("unlearning.pipeline.runner.open_source", None)
    from unlearning.pipeline.runner import unlearn

    for work in (lambda: fedsim.resume(run), lambda: unlearn(run, ["finetune"], "class=3")):
        with pytest.raises(FedsimError, match=r"tiny: cannot be written \(Permission denied\); change its permissions"):
            work()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
