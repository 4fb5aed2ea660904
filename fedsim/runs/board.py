"""Shows the runs of a sweep: a live table on a terminal, else one line for each run that ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedsim.runs.progress import measures

_STYLES = {"waiting": "dim", "running": "", "finished": "green", "failed": "bold red"}
_MARGIN = 6  # lines of the terminal that the table does not use
_REFRESH_PER_S = 4


@dataclass
class _RunStatus:
    state: str = "waiting"
    round: int = 0
    rounds: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    begun: float = 0.0
    begun_at: int | None = None
    """The round after which this process continued the run."""
    error: str = ""

    def left(self) -> str:
        """Return the estimated remaining time, from the speed so far."""
        done = self.round - (self.begun_at or 0)
        if self.state != "running" or done < 1:
            return ""
        return f"{(time.monotonic() - self.begun) / done * (self.rounds - self.round):.0f} s"


class BoardLines:
    """Prints one line for each run that ends."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._console, self.rows = console, {name: _RunStatus() for name in names}

    def began(self, name: str) -> None:
        """Record the start of a run."""
        self.rows[name].state = "running"
        self.rows[name].begun = time.monotonic()

    def round_done(self, name: str, server_round: int, rounds: int, metrics: Mapping[str, float]) -> None:
        """Record the progress of a run."""
        row = self.rows[name]
        row.begun_at = server_round if row.begun_at is None else row.begun_at
        row.round, row.rounds = server_round, rounds
        row.metrics |= metrics

    def ended(self, name: str, error: str | None) -> None:
        """Print the outcome of a run, and how many runs have ended."""
        row = self.rows[name]
        row.state, row.error = ("finished", "") if error is None else ("failed", error)
        over = sum(row.state in ("finished", "failed") for row in self.rows.values())
        told = measures(row.metrics) if error is None else error
        self._console.print(
            f"{over}/{len(self.rows)}  {name}  {row.state}  {told}".rstrip(), highlight=False, markup=False
        )

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class QuietBoard(BoardLines):
    """Shows nothing."""

    def ended(self, name: str, error: str | None) -> None:
        """Print nothing."""


class LiveTable(BoardLines):
    """Shows the current state of all runs in one table."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        super().__init__(console, names)
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=_REFRESH_PER_S)
        self._live.start()

    def ended(self, name: str, error: str | None) -> None:
        """Record the outcome of a run."""
        row = self.rows[name]
        row.state, row.error = ("finished", "") if error is None else ("failed", error)

    def close(self) -> None:
        """Stop updating the table."""
        self._live.stop()

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for head in ("run", "state", "round", "", "left"):
            table.add_column(head, no_wrap=True)
        room = self._console.height - _MARGIN
        shown = self.rows
        if len(shown) > room:  # show only the running and the failed runs
            shown = {name: row for name, row in shown.items() if row.state in ("running", "failed")}
        for name, row in list(shown.items())[:room]:
            told = row.error or measures(row.metrics)
            counted = f"{row.round}/{row.rounds}" if row.rounds else ""
            table.add_row(*map(Text, (name, row.state, counted, told, row.left())), style=_STYLES[row.state])
        states = [row.state for row in self.rows.values()]
        table.caption = ", ".join(f"{states.count(state)} {state}" for state in _STYLES if state in states)
        table.caption_justify = "left"
        return table


def board_for(console: Console, names: Sequence[str], quiet: bool) -> BoardLines:
    """Return the display for a console: a table on a terminal, lines elsewhere, nothing if `quiet`."""
    kind = QuietBoard if quiet else LiveTable if console.is_terminal else BoardLines
    return kind(console, names)
