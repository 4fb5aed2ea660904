"""Who looks on while a simulation runs its rounds: progress, history, ledger, files, trackers. One class for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Message

from fedsim.federated.types import State
from fedsim.runs.progress import Progress
from fedsim.runs.state import Metrics, RunState


@dataclass(frozen=True)
class Beginning:
    """A round before anything of it is sent."""

    server_round: int
    cohort: Sequence[int]
    """The clients that were drawn."""
    model: State
    """The global model that they start from."""
    state: RunState
    """Of the round before; its ledger knows of this one."""
    new: bool
    """Whether nothing of this round, to the same bits, has been released before."""


class RoundObserver:
    """Is told of every round by `Simulation.step`. No hook does anything here; a subclass takes those that it needs."""

    def round_begins(self, beginning: Beginning) -> bool:
        """See a round that is about to begin; returns whether each client's own update is needed beside sums."""
        return False

    def reply(self, message: Message) -> None:
        """See a client's reply, which may hold an error."""

    def round_whole(self) -> None:
        """Keep what was seen of the round: it counts from now on. Ctrl-C waits until all observers have."""

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """See the state after the round, and the round's own metrics by name."""


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
