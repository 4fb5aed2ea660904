"""What `fedsim personalize` refuses is one line, and changes nothing."""

from pathlib import Path

import pytest

from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--clients", "6"], "--clients: the run has clients 0 to 5; got '6'"),
        (["--clients", "4-x"], "--clients: must be numbers and ranges such as 90-99,3; got '4-x'"),
        (["--clients", "1", "--dataset", "npz:a"], "--clients: names clients of the run"),
        (["--dataset", "mnist"], "--dataset: must be npz:FILE or csv:FILE; got 'mnist'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], line: str, tiny_run: Path, cli: Cli) -> None:
    outcome = cli("personalize", tiny_run, *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {line}")
    assert outcome.err.count("\n") == 1
    assert not (tiny_run / "personal").exists()


def test_other_peoples_folders_stay(tiny_run: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    outcome = cli("personalize", tiny_run, "--clients", "1", "--out", tmp_path / "mine")
    assert outcome.code == 2
    assert "holds no personal.csv; choose another --out" in outcome.err
