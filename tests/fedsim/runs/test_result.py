"""A result is a tidy table, shows itself briefly, and draws its curves."""

import re

import matplotlib.figure
import pytest

import fedsim
from fedsim.errors import FedsimError
from tests.tiny_runs import TINY


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> fedsim.RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return fedsim.run(TINY, overrides={"out": str(tmp_path_factory.mktemp("runs"))})


def test_a_result_is_a_tidy_table(result: fedsim.RunResult) -> None:
    table = result.frame()
    assert list(table.columns) == ["round", "metric", "value"]
    assert not table.duplicated(["round", "metric"]).any()
    last = table[(table["round"] == 3) & (table["metric"] == "global/accuracy")]["value"].item()
    assert last == result.final["global/accuracy"]
    assert len(table) == sum(len(line["metrics"]) for line in result.metrics)


def test_a_result_shows_itself_briefly(result: fedsim.RunResult) -> None:
    assert len(repr(result)) < 300 + len(str(result.folder))
    assert "fedavg on digits, 3 rounds, 6 clients, Global: accuracy: " in repr(result)
    assert re.search(r"<td[^>]*>Global: accuracy</td><td>\d+\.\d\d %</td>", result._repr_html_())


def test_curves(result: fedsim.RunResult) -> None:
    plot = result.plot("train/loss", "global/loss")
    assert isinstance(plot.figure, matplotlib.figure.Figure)
    assert plot._repr_png_().startswith(b"\x89PNG")
    assert len(plot.figure.axes[0].lines) == 2
    assert len(result.plot().figure.axes[0].lines) == 1
    with pytest.raises(FedsimError, match="did you mean 'global/loss'"):
        result.plot("global/los")
