"""The commands as Python functions: their results have representations, and errors name Python arguments."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim.errors import FedsimError
from fedsim.python import in_python
from tests.tiny_runs import TINY


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> fedsim.RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return fedsim.run(TINY, overrides={"out": str(tmp_path_factory.mktemp("runs"))})


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
