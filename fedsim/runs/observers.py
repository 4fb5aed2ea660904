"""Observers of a simulation's rounds: progress, history, ledger, files and trackers are each a class of this kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Message

from fedsim.federated.types import State
from fedsim.runs.progress import Progress
from fedsim.runs.state import Metrics, RunState


@dataclass(frozen=True)
class Beginning:
    """A round before its first message is sent."""

    server_round: int
    cohort: Sequence[int]
    """The clients that were drawn."""
    model: State
    """The global model that they start from."""
    state: RunState
    """The state after the round before; its ledger already contains this round."""
    new: bool
    """False if this round has been released before, with the same bits."""


class RoundObserver:
    """`Simulation.step` calls these hooks in every round. All are empty here; a subclass overrides what it needs."""

    def round_begins(self, beginning: Beginning) -> bool:
        """Handle the start of a round; return whether each client's own update is needed besides the sums."""
        return False

    def reply(self, message: Message) -> None:
        """Handle a client's reply, which may be an error."""

    def round_whole(self) -> None:
        """Store the round, which is now complete. Ctrl-C is delayed until all observers have returned."""

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Handle the end of a round, given the state after it and the metrics of the round by name."""


class Shown(RoundObserver):
    """Passes rounds on to a progress display."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def reply(self, message: Message) -> None:
        """Count it."""
        self._progress.reply()

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Show the numbers."""
        self._progress.round_done(state.round, metrics)
