"""A sweep's runs: a line for each that ends, a table on a terminal, nothing where it is quiet."""

import io

import pytest
from rich.console import Console

from fedsim.runs.board import BoardLines, LiveTable, QuietBoard, board_for

NAMES = ["seed0", "seed1", "seed2"]


def console(*, terminal: bool = False, height: int = 30) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, height=height)


def play(board: BoardLines) -> str:
    for name in NAMES[:2]:
        board.began(name)
        board.round_done(name, 0, 4, {})
        board.round_done(name, 2, 4, {"global/accuracy": 0.5})
    board.ended("seed0", None)
    board.ended("seed1", "[bold]its process died")
    board.close()
    file = board._console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_line_for_each_that_ends() -> None:
    board = board_for(console(), NAMES, quiet=False)
    assert play(board).splitlines() == [
        "1/3  seed0  finished  acc 0.5000",
        "2/3  seed1  failed  [bold]its process died",
    ]


def test_a_quiet_board_prints_nothing() -> None:
    board = board_for(console(terminal=True), NAMES, quiet=True)
    assert isinstance(board, QuietBoard)
    assert play(board) == ""


@pytest.mark.parametrize(("height", "shown"), [(30, NAMES), (8, ["seed1"])])
def test_a_table_leaves_out_what_has_no_room(height: int, shown: list[str]) -> None:
    board = board_for(console(terminal=True, height=height), NAMES, quiet=False)
    assert isinstance(board, LiveTable)
    play(board)
    out = console(height=height)
    out.print(board._table())
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert [name for name in NAMES if name in text] == shown
    assert "1 waiting, 1 finished, 1 failed" in text
    assert "[bold]its process died" in text


def test_the_time_left_is_from_the_rounds_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fedsim.runs.board.time.monotonic", lambda: now[0])
    board = BoardLines(console(), NAMES)
    board.began("seed0")
    board.round_done("seed0", 10, 20, {})  # continued after round 10
    assert board.rows["seed0"].left() == ""
    now[0] = 110.0
    board.round_done("seed0", 15, 20, {})
    assert board.rows["seed0"].left() == "10 s"
