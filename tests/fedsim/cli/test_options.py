"""`fedsim options` and `fedsim init` on the command line, and what a shell completes."""

import io
from pathlib import Path

import pytest

from fedsim.cli.screen import Screen, print_rows
from tests.tiny_runs import Cli

ROWS = [("training.lr", "0.1", "number > 0", "Learning rate, which is what moves the weights in one step.")]
HEADINGS = ("option", "default", "takes", "what it does")


def test_pages(cli: Cli) -> None:
    assert "strategy.mu  0.01     number >= 0  Pull to the global model" in cli("options", "strategy", "fedprox").out
    assert "ssd.dampening" in cli("options", "unlearning", "ssd").out
    assert "training.momentum=0.5" in cli("options", "strategy", "fedloge").out
    assert "data.partition.alpha" in cli("options", "partition", "dirichlet").out
    assert cli("options", "trainin").err.startswith("error: options trainin: no such section; did you mean 'training'?")
    assert "did you mean 'ssd'" in cli("options", "unlearning", "ssdd").err


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_no_cell_is_cut_on_a_terminal_of_any_width(width: int) -> None:
    out = io.StringIO()
    print_rows(Screen(file=out, force_terminal=True, width=width, color_system=None), HEADINGS, ROWS)
    words = out.getvalue().split()
    assert all(word in words for cell in ROWS[0] for word in cell.split())
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_init_writes_a_file_that_runs_and_no_second_one(tmp_path: Path, cli: Cli, no_pictures: None) -> None:
    file = tmp_path / "mine.yaml"
    assert cli("init", file, "--strategy=fedprox").out == f"{file}; to run it: fedsim run --config {file}\n"
    again = cli("init", file)
    assert (again.code, again.err) == (
        2, f"error: {file}: exists already; choose another file, or replace it with --force\n"
    )  # fmt: skip
    assert "mu: 0.01" in file.read_text()
    small = ["--clients=4", "--rounds=1", "--model=mlp", f"--out={tmp_path}", "--quiet"]
    assert cli("run", "--config", file, *small).code == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run --strategy fedp", "fedprox"),
        ("run --config dp_", "dp_fedavg_digits"),
        ("run --dataset cs", "csv:"),
        ("run --model resnet1", "resnet18"),
        ("run --partition dir", "dirichlet"),
        ("unlearn x --method scr", "scrub"),
        ("options str", "strategy"),
    ],
)
def test_a_shell_completes_names(typed: str, offered: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FEDSIM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"fedsim {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    assert offered in cli().out.split()
