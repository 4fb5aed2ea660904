"""Fixtures of all tests: one thread, the command line in this process, and one small finished run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim.cli.main import main
from tests.light import as_for_users, light
from tests.page_files import FILES
from tests.tiny_runs import TINY, Cli, Outcome


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute as a worker does; runs set torch's number of threads, and would leave it so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test depend on what its user has set for this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _light() -> Iterator[None]:
    """Leave out what takes most of the time of a small run; see `real_pictures`."""
    with light():
        yield


@pytest.fixture
def real_pictures() -> Iterator[None]:
    """Draw pictures, for a test that looks at them."""
    with as_for_users():
        yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out plots and report, which take most of a small run's time."""
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of TINY, without pictures; nobody writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return fedsim.run(TINY, overrides={"out": str(tmp_path_factory.mktemp("runs"))}).folder


@pytest.fixture
def page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    """Return an empty folder with the files of the page on extending, and work in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setattr("fedsim.plugins._named", {})
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "strategies").mkdir()  # a folder of this name hides nothing
    return tmp_path
