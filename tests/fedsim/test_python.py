"""The commands as functions of Python: what they return shows itself, and what is wrong is said in Python."""

import re
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim.errors import FedsimError
from fedsim.python import in_python
from fedsim.runs.notebook import Notebook, in_notebook
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


def test_runs_side_by_side(result: fedsim.RunResult, tiny_run: Path) -> None:
    table = fedsim.compare(result, tiny_run, metrics=["global/accuracy", "train/loss"])
    assert table.shape == (2, 2)
    assert table.iloc[0]["global/accuracy"] == table.iloc[1]["global/accuracy"] == result.final["global/accuracy"]


def test_report_and_privacy_are_packages_and_functions(result: fedsim.RunResult, tmp_path: Path) -> None:
    import fedsim.privacy.ledger
    import fedsim.report.html

    assert fedsim.report(result, out=tmp_path / "page.html").read_text().lower().startswith("<!doctype html>")  # type: ignore[operator]
    assert fedsim.privacy(result).empty  # type: ignore[operator]
    assert fedsim.privacy.ledger.Ledger.read(result.folder).rounds == 3


def test_clients_models(result: fedsim.RunResult, tmp_path: Path) -> None:
    made = fedsim.personalize(result, "0-2", out=tmp_path / "models")
    assert made.frame().index.tolist() == [0, 1, 2]
    assert (tmp_path / "models" / "client-2.safetensors").is_file()
    assert repr(made).endswith("3 clients>")


def test_errors_speak_python(result: fedsim.RunResult) -> None:
    with pytest.raises(FedsimError, match=r'exists already; choose another "name", or replace it with force=True'):
        fedsim.run(TINY, overrides={"out": str(result.folder.parent)})
    with pytest.raises(FedsimError, match=r"clients: names clients of the run, and dataset brings new ones"):
        fedsim.personalize(result, "1", dataset="npz:x")
    with pytest.raises(FedsimError, match=r"compare x: is not a reference"):
        fedsim.unlearn(result, "finetune", "client=1", compare="x")
    with pytest.raises(
        FedsimError, match=r'try again with overrides=\{"training.lr": 0.1\}; or fedsim.resume\("a b"\)'
    ):
        raise FedsimError(
            in_python("try again with --set training.lr=0.1; or fedsim run --resume 'a b'", of_a_run=True)
        )


@given(st.text())
def test_what_names_no_flag_is_left_alone(text: str) -> None:
    if "--" not in text and "fedsim run" not in text:
        assert in_python(text, of_a_run=True) == text


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert not in_notebook()
    fedsim.run({**TINY, "rounds": 1}, overrides={"out": str(tmp_path)})
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_notebook(result: fedsim.RunResult) -> None:
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            bar = Notebook()
            bar.begin(result.config, {}, 0)
            bar.round_done(3, {"global/accuracy": 0.5})
            bar.warn("it <diverges>")
            bar.end()
    finally:
        InteractiveShell.clear_instance()
    pages = [output.data["text/html"] for output in captured.outputs]
    assert "<progress value=0 max=3>" in pages[0]
    assert "<progress value=3 max=3></progress> round 3/3&emsp;acc 0.5000" in pages[-1]
    assert "it &lt;diverges&gt;" in pages[-1]
    assert np.all([page.count("<progress") == 1 for page in pages])
