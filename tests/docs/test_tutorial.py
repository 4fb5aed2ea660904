"""The tutorial runs through, in an empty folder."""

import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.py"


@pytest.mark.slow
def test_it_runs_through(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, TUTORIAL], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "comparison.html").is_file()


def test_every_cell_is_python_or_prose() -> None:
    cells = TUTORIAL.read_text(encoding="utf-8").split("# %%")[1:]
    assert len(cells) > 10
    for cell in cells:
        kind, _, text = cell.partition("\n")
        if kind.strip() == "[markdown]":
            assert all(line.startswith("# ") or not line for line in text.splitlines())
        else:
            compile(text, "cell", "exec")
