"""Parts of an installed package are listed beside fedsim's own; fedsim's own parts win a name clash, with a message."""

from pathlib import Path

import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.installed import _tell_clash, installed
from tests.page_files import FILES
from tests.tiny_runs import Cli

ENTRY_POINTS = """
[fedsim.strategies]
theirs = their_package.entropy
fedavg = their_package.entropy
gone = their_package.nowhere
[fedsim.unlearning]
shrinking = their_package.shrink
[fedsim.models]
theirnet = their_package.net:Net
[fedsim.datasets]
theirwaves = their_package.waves:load
[fedsim.partitions]
theirhalves = their_package.cut:halves
[fedsim.metrics]
theirtop = their_package.top:top2
[fedsim.forgetting_metrics]
theirsure = their_package.sure:surer
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current folder with a package on Python's path, as pip leaves one."""
    site = tmp_path / "site"
    (site / "their_package").mkdir(parents=True)
    (site / "their_package" / "__init__.py").touch()
    for name, text in FILES.items():
        text = text.replace('strategy("entropy"', 'strategy("theirs"').replace('("shrink"', '("shrinking"')
        (site / "their_package" / name).write_text(text)
    (site / "their_package-1.2.dist-info").mkdir()
    (site / "their_package-1.2.dist-info" / "METADATA").write_text("Name: their-package\nVersion: 1.2\n")
    (site / "their_package-1.2.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_kinds_run_and_are_listed(package: Path, cli: Cli, no_pictures: None) -> None:
    for kind, name in (("strategies", "theirs"), ("models", "theirnet"), ("datasets", "theirwaves"),
                       ("unlearning", "shrinking"), ("partitions", "theirhalves")):  # fmt: skip
        lines = cli("list", kind).out.splitlines()
        assert any(line.split() == [name, *["of", "the", "package", "their-package", "1.2"]] for line in lines)
    small = ["--clients=4", "--rounds=1", "--set=training.epochs=1", "--quiet"]
    done = cli("run", "--strategy=theirs", "--set=strategy.beta=0.2", "--model=theirnet", "--name=a", *small,
               "--partition=theirhalves", "--metric=theirtop")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert fedsim.load_model("runs/a").description.model.name == "theirnet"
    assert "global/top2" in fedsim.compare("runs/a").columns
    done = cli("unlearn", "runs/a", "--method=shrinking", "--forget=client=1", "--metric=theirsure", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert cli("run", "--dataset=theirwaves", "--model=mlp", "--name=b", *small).code == 0
    assert cli("options", "strategy", "theirs").out.count("strategy.beta") == 1


def test_ours_win_a_clash_and_it_is_said(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _tell_clash.cache_clear()
    assert "fedavg" not in installed("strategies", {"fedavg"})
    assert "brings 'fedavg' of fedsim.strategies, a name that fedsim itself uses" in capsys.readouterr().err


def test_one_that_cannot_be_loaded_is_one_line(package: Path) -> None:
    with pytest.raises(
        FedsimError, match=r"strategy\.name: their_package\.nowhere of an installed package cannot be loaded"
    ):
        fedsim.run({"strategy": "gone"})
