"""Progress displays of a run: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fedsim.config.run import RunConfig


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Show what is run; `choices` are the automatic choices with their reasons."""

    def working(self, what: str, done: int, total: int) -> None:
        """Show the progress of the server's own work between rounds."""

    def reply(self) -> None:
        """Count one client's reply."""

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Count one round."""

    def tell(self, text: str) -> None:
        """Show a note."""

    def warn(self, text: str) -> None:
        """Show a warning; the run continues."""

    def end(self) -> None:
        """Clean up the display."""


class QuietProgress:
    """Shows nothing."""

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Ignore."""

    def working(self, what: str, done: int, total: int) -> None:
        """Ignore."""

    def reply(self) -> None:
        """Ignore."""

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Ignore."""

    def tell(self, text: str) -> None:
        """Ignore."""

    def warn(self, text: str) -> None:
        """Write the warning to stderr, as it is not a result."""
        sys.stderr.write(f"warning: {text}\n")

    def end(self) -> None:
        """Ignore."""


@contextlib.contextmanager
def shown(progress: Progress, config: RunConfig, rounds_done: int) -> Iterator[None]:
    """Show the rounds of a configuration that go on after some, until the block ends."""
    progress.begin(config, {}, rounds_done)
    try:
        yield
    finally:
        progress.end()


def headline_of(config: RunConfig, choices: dict[str, str]) -> str:
    """Return one line that says what is run, followed by one line for each automatic choice."""
    cohort = f"{config.cohort_size} of {config.clients}" if config.cohort_size < config.clients else str(config.clients)
    return (
        f"{config.strategy.name} on {config.data.name}: {cohort} clients, {config.rounds} rounds, "
        f"{config.model.name}, seed {config.seed}\n"
        + "\n".join(f"  {what}: {choice}" for what, choice in choices.items())
    )


def measures(metrics: Mapping[str, float]) -> str:
    """Return the main metrics of a round, as "acc 0.9100  loss 0.3200"."""
    names = {
        "acc": "global/accuracy",
        "mse": "global/mse",
        "clients": "clients/accuracy",
        "unseen": "unseen/accuracy",
        "loss": "train/loss",
    }
    return "  ".join(f"{short} {metrics[name]:.4f}" for short, name in names.items() if name in metrics)


_LINE_EVERY_S = 10.0


class ProgressLines(QuietProgress):
    """One line per evaluated round, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._config: RunConfig | None = None
        self._begun = time.monotonic()
        self._done_before = 0
        self._told = time.monotonic()

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Print the headline."""
        self._config, self._begun, self._done_before = config, time.monotonic(), rounds_done
        self._console.print(headline_of(config, choices), highlight=False, markup=False)

    def tell(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False)

    def working(self, what: str, done: int, total: int) -> None:
        """Print a line every ten seconds, and one when it is done."""
        now = time.monotonic()
        if done == total or now - self._told >= _LINE_EVERY_S:
            self._told = now
            self._console.print(f"{what}: {done}/{total}", highlight=False, markup=False)

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Print a line if this round was evaluated."""
        if self._config is None or not any(name.startswith(("global/", "clients/", "unseen/")) for name in metrics):
            return
        spent = time.monotonic() - self._begun
        left = spent / max(server_round - self._done_before, 1) * (self._config.rounds - server_round)
        self._console.print(
            f"round {server_round}/{self._config.rounds}  {measures(metrics)}  "
            f"{metrics.get('train/clients_per_s', 0):.0f} clients/s  eta {left:.0f} s",
            highlight=False,
        )


class Live(QuietProgress):
    """A bar with round, accuracy, loss, clients per second and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._cohort = 0
        self._replies = 0
        self._shown: dict[str, float] = {}

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Print the headline and start the bar."""
        self._console.print(headline_of(config, choices), highlight=False, markup=False)
        self._bar = Bar(
            TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
            TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), console=self._console,
        )  # fmt: skip
        self._cohort = config.cohort_size
        self._task = self._bar.add_task("", total=config.rounds, completed=rounds_done)
        self._bar.start()

    def working(self, what: str, done: int, total: int) -> None:
        """Show the server's work in place of the round's metrics."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{what}  {done}/{total}")

    def reply(self) -> None:
        """Update the number of replies from time to time."""
        self._replies += 1
        if self._bar is not None and self._replies % max(1, self._cohort // 50) == 0:
            self._bar.update(self._task, description=f"{self._text()}  {self._replies}/{self._cohort} clients")

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Advance the bar."""
        self._replies = 0
        self._shown |= metrics
        if self._bar is not None:
            self._bar.update(self._task, completed=server_round, description=self._text())

    def tell(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def _text(self) -> str:
        return f"{measures(self._shown)}  {self._shown.get('train/clients_per_s', 0):.0f} clients/s"

    def end(self) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()


def progress_for(console: Console, quiet: bool) -> Progress:
    """Return the progress display that fits where the output goes."""
    if quiet:
        return QuietProgress()
    return Live(console) if console.is_terminal else ProgressLines(console)
