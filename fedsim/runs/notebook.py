"""Progress of runs that are started from Python: a bar in a notebook or on a terminal, nothing in a script's log."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from rich.console import Console

from fedsim.config.run import RunConfig
from fedsim.report.wording import format_duration
from fedsim.runs.progress import Live, Progress, QuietProgress, headline_of, measures

_EVERY_S = 0.2


def auto_progress() -> Progress:
    """Return the progress display that fits where Python runs."""
    if in_notebook():
        return Notebook()
    console = Console()
    return Live(console) if console.is_terminal else QuietProgress()


def in_notebook() -> bool:
    """Return whether this runs in a notebook kernel, which shows HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class Notebook(QuietProgress):
    """A bar with round, accuracy, loss and the time left, as HTML that is replaced; it needs no widgets."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._config: RunConfig | None = None
        self._begun = self._drawn = 0.0
        self._before = self._round = 0
        self._shown: dict[str, float] = {}
        self._head = self._note = ""
        self._warnings: list[str] = []

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Show an empty bar."""
        from IPython.display import HTML, display

        self._config, self._before, self._round = config, rounds_done, rounds_done
        self._head, self._begun = headline_of(config, choices).partition("\n")[0], time.monotonic()
        self._handle = display(HTML(self._html()), display_id=True)

    def working(self, what: str, done: int, total: int) -> None:
        """Show the server's work beside the bar."""
        self._note = f"{what} {done}/{total}"
        self._update()

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Advance the bar."""
        self._round, self._note = server_round, ""
        self._shown |= metrics
        self._update()

    def warn(self, text: str) -> None:
        """Show the warning below the bar."""
        self._warnings.append(text)
        self._update(now=True)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._update(now=True)

    def _update(self, *, now: bool = False) -> None:
        if self._handle is None or (not now and time.monotonic() - self._drawn < _EVERY_S):
            return
        from IPython.display import HTML

        self._handle.update(HTML(self._html()))
        self._drawn = time.monotonic()

    def _html(self) -> str:
        assert self._config is not None  # begin has set it
        rounds, spent = self._config.rounds, time.monotonic() - self._begun
        left = spent / max(self._round - self._before, 1) * (rounds - self._round)
        when = f"in {format_duration(spent)}" if self._round == rounds else f"{format_duration(left)} left"
        text = "&emsp;".join(html.escape(part) for part in (self._note, measures(self._shown), when) if part)
        lines = [f"<div>warning: {html.escape(one)}</div>" for one in self._warnings]
        return (
            f"<div>{html.escape(self._head)}</div><div><progress value={self._round} max={rounds}></progress> "
            f"round {self._round}/{rounds}&emsp;{text}</div>{''.join(lines)}"
        )
