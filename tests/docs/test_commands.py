"""The program accepts every command of the README and of docs/; the commands of the README run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from fedsim.cli.main import app
from fedsim.config.resolve import resolve
from tests.page_files import FILES
from tests.tiny_runs import Cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDER = re.compile(r"\b(FOLDER|NAME|PORT|FILE|RUNS?|METHOD)\b")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks that call fedsim, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("fedsim ")]


EVERY = [pytest.param(line, id=f"{page.stem}: {line}") for page in PAGES for line in commands(page)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with the files that the pages assume."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setattr("fedsim.plugins._named", {})
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{int(9 * a)},{int(9 * b)},{int(9 * (a + b))}" for a, b in rng.random((200, 2))]
    (tmp_path / "bikes.csv").write_text("\n".join(["temp,wind,casual,registered,cnt", *lines]) + "\n")
    x = rng.integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "new_clients.npz", x=x, y=np.arange(60) % 10, identity=np.arange(60) // 20)
    return tmp_path


@pytest.mark.parametrize("line", EVERY)
def test_the_program_takes_it(line: str, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options exist and their values are valid; for a run, the configuration is valid."""
    _, name, *arguments = shlex.split(line)
    assert name in COMMANDS
    context = COMMANDS[name].make_context(name, list(arguments), resilient_parsing=False)
    given = context.params
    if name != "run" or given.get("resume") or str(given.get("config") or "").startswith(("runs/", "mine")):
        return
    if PLACEHOLDER.search(line):
        return
    seen: list[Sequence[Mapping[str, Any]]] = []

    def stop(layers: Sequence[Mapping[str, Any]], **_: Any) -> None:
        seen.append(layers)
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsim.runs.runner.run_layers", stop)
    done = cli(name, *[one for one in arguments if one != "--dry-run"])
    assert done.code == 130, done.err
    layers = [
        {key: value for key, value in layer.items() if key != "start"} for layer in seen[0]
    ]  # the run that it goes on from is made by another command
    assert resolve(*layers).rounds >= 1


@pytest.mark.slow
def test_the_readme_from_top_to_bottom(folder: Path, cli: Cli) -> None:
    """In one empty folder, in the order of the page."""
    skipped = ("--dashboard", "scripts/")
    for line in commands(ROOT / "README.md"):
        if PLACEHOLDER.search(line) or any(word in line for word in skipped):
            continue
        arguments = shlex.split(line)[1:]
        done = cli(*arguments)
        assert (done.code, done.err.partition("error")[1]) == (0, ""), (line, done.err)
