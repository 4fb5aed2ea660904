"""The examples of the README and of docs/ do what they say."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

import fedsim
from fedsim.cli.main import main
from fedsim.config.resolve import resolve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
CODE = [block for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)]


def blocks(language: str) -> list[str]:
    return [text for kind, text in CODE if kind == language]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)


@pytest.mark.usefixtures("small")
def test_the_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(text for text in blocks("python") if "fedprox" in text).replace('"rounds": 5', '"rounds": 1')
    exec(code, names := {})  # type: ignore[var-annotated]
    assert "fedprox-digits" in capsys.readouterr().out
    assert not names["model"].training


@pytest.mark.usefixtures("small")
def test_the_example_of_a_model_taken_away(tiny_run: Path) -> None:
    code = next(text for text in blocks("python") if "load_model(" in text).replace("runs/first", str(tiny_run))
    names = {"images": np.zeros((2, 8, 8), np.uint8)}
    exec(code, names)
    assert names["model"].predict_names(names["images"])[0].isdigit()  # type: ignore[attr-defined]


def test_the_configuration_is_one() -> None:
    config = resolve(yaml.safe_load(blocks("yaml")[0]))
    assert (config.cohort_size, config.strategy.name) == (20, "fedprox")


def test_the_run_folder_is_as_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsim.report.figures._DPI", 50)
    folder = fedsim.run({"strategy": "fedloge", "clients": 10, "rounds": 1, "name": "first"}).folder
    tree = re.search(r"runs/first/\n((?:  .*\n)+)", README)
    assert tree
    assert {line.split()[0].rstrip("/") for line in tree[1].splitlines()} == {path.name for path in folder.iterdir()}


def test_every_command_is_understood(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They are parsed and resolved; what they do is tested elsewhere."""
    texts = [text.replace("\\\n", " ") for text in blocks("sh")]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("fedsim ")]
    assert len(lines) >= 9
    for line in lines:
        command, *rest = shlex.split(line.partition("#")[0])[1:]
        flags = {word.split("=")[0] for word in rest if word.startswith("--")}
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert flags <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
