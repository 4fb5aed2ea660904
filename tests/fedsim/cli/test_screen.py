"""Pages on terminals of any width."""

import io

import pytest

from fedsim.cli.screen import Screen, print_rows

ROWS = [("training.lr", "0.1", "number > 0", "Learning rate, which is what moves the weights in one step.")]

HEADINGS = ("option", "default", "takes", "what it does")


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_no_cell_is_cut_on_a_terminal_of_any_width(width: int) -> None:
    out = io.StringIO()
    print_rows(Screen(file=out, force_terminal=True, width=width, color_system=None), HEADINGS, ROWS)
    words = out.getvalue().split()
    assert all(word in words for cell in ROWS[0] for word in cell.split())
    assert max(map(len, out.getvalue().splitlines())) <= width
