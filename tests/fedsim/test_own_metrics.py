"""A user's metric that is none, or fails, is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def accuracy_forget(logits, labels):\n    return 0", "--metric: accuracy_forget is a built-in metric"),
        ("def m(logits, labels):\n    return logits['nobody']", "--metric: m() fails (KeyError"),
        ("x = 1", "registers nothing that is a function of outputs and labels by role"),
    ],
)
def test_a_metric_of_forgetting_that_does_not_do_is_one_line(page_folder: Path, cli: Cli, text: str, says: str) -> None:
    run = ["run", "--clients=4", "--rounds=1", "--model=logistic", "--set=training.epochs=1", "--name=a", "--quiet"]
    assert cli(*run).code == 0
    (page_folder / "own.py").write_text(text)
    done = cli("unlearn", "runs/a", "--method=finetune", "--forget=client=1", "--metric=./own.py", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
    assert not list((page_folder / "runs" / "a").glob("unlearned/*"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def m(outputs, targets):\n    return 'x'", "m() fails (ValueError"),
        ("x = 1", "registers nothing that is a function of outputs and targets"),
    ],
)
def test_a_metric_that_does_not_do_is_one_line(page_folder: Path, cli: Cli, text: str, says: str) -> None:
    (page_folder / "own.py").write_text(text)
    done = cli("run", "--metric=./own.py", "--clients=4", "--rounds=1", "--model=mlp", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
