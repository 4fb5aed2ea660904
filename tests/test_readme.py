"""The README's examples do what it says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import fedsim
import strategies
from fedsim.cli.main import main
from fedsim.config.resolve import resolve
from fedsim.federated import registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in CODE if kind == language]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)


@pytest.fixture
def own_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the example beside the shipped strategies."""
    (tmp_path / "fedconf.py").write_text(blocks("python")[0])
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    assert strategies.__spec__
    monkeypatch.setattr(strategies.__spec__, "submodule_search_locations", strategies.__path__)
    registry.declared.cache_clear()
    yield
    registry.declared.cache_clear()


@pytest.mark.usefixtures("small", "own_strategy")
def test_the_strategy_of_one_file() -> None:
    tiny = {"clients": 4, "rounds": 1, "model": "mlp", "training": {"cohort": "vectorized", "epochs": 1}}
    plain = fedsim.run({**tiny, "strategy": "fedavg", "name": "a"})
    zero = fedsim.run({**tiny, "strategy": {"name": "fedconf", "beta": 0}, "name": "b"})
    some = fedsim.run({**tiny, "strategy": "fedconf", "name": "c"})
    state = plain.model.state_dict()
    assert all(state[name].equal(value) for name, value in zero.model.state_dict().items())
    assert any(not state[name].equal(value) for name, value in some.model.state_dict().items())
    assert 0 < some.final["train/entropy"] < 2.4  # log(10) is 2.3


@pytest.mark.usefixtures("small")
def test_the_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")[1].replace('"rounds": 5', '"rounds": 1')
    exec(code, names := {})  # type: ignore[var-annotated]
    assert "fedprox-digits" in capsys.readouterr().out
    assert not names["model"].training


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
    lines = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("fedsim ")]
    assert len(lines) >= 9
    for line in lines:
        command, *rest = shlex.split(line.partition("#")[0])[1:]
        flags = {word.split("=")[0] for word in rest if word.startswith("--")}
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert flags <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
