"""Executes the rounds of a run with its observers: the files of its folder, warnings and progress."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedsim.atomic import write_atomically
from fedsim.engine.base import Engine
from fedsim.errors import Diverged, FedsimError, TooFewReplies
from fedsim.interrupts import checkpoint_wanted, end_if_heard, uninterrupted
from fedsim.runs.history import HistoryWriter
from fedsim.runs.observers import Beginning, RoundObserver
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import Metrics, RunState
from fedsim.runs.stopping import Stopping
from fedsim.runs.summary import write_summary
from fedsim.runs.watch import Presence, Watch
from fedsim.trackers.base import Tracker, tracker_classes

_WARNINGS = 3
_GAUGES = {"accuracy": "global/accuracy", "clients_per_second": "train/clients_per_s"}


class LedgerJournal(RoundObserver):
    """Records the releases of a round before its first message is sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def round_begins(self, beginning: Beginning) -> bool:
        """Write a line for a round that has not been released before."""
        if beginning.new:
            beginning.state.ledger.journal(self._folder, beginning.cohort)
        return False


class MetricsFile(RoundObserver):
    """Adds a line to metrics.jsonl for each round."""

    def __init__(self, folder: Path, state: RunState) -> None:
        self._path = folder / "metrics.jsonl"
        # Rounds after the checkpoint are run, and logged, again.
        write_atomically(self._path, "".join(map(_line, state.metrics)).encode())

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Add the line."""
        with self._path.open("a", encoding="utf-8") as log:
            log.write(_line(state.metrics[-1]))


class Checkpoints(RoundObserver):
    """Saves a checkpoint every `checkpoint_every` rounds, after the last one, and on request by a signal."""

    def __init__(self, folder: Path, simulation: Simulation, engine: Engine, state: RunState) -> None:
        self._folder, self._simulation, self._engine = folder, simulation, engine
        self._saved = state.round

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Save a checkpoint if one is due."""
        config = self._simulation.config
        due = state.round % config.checkpoint_every == 0 or state.round == config.rounds
        if checkpoint_wanted() or due:
            self.save(state)

    def save(self, state: RunState) -> None:
        """Save the state if it is newer than the last checkpoint."""
        if state.round > self._saved:
            self._simulation.checkpoint(state, self._engine).save(self._folder)
            state.ledger.save(self._folder)
            self._saved = state.round


class EngineGauges(RoundObserver):
    """Passes the metrics of a round to the engine, which may show them, and announces the engine's choices."""

    def __init__(self, engine: Engine, simulation: Simulation) -> None:
        self._engine, self._simulation = engine, simulation

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Report the metrics."""
        numbers = {name: metrics[metric] for name, metric in _GAUGES.items() if metric in metrics}
        self._engine.report({"round": state.round, "failures": state.failures, **numbers})
        choices, choice = self._simulation.choices, self._engine.notes.get("engine")
        if choice is not None and choice != choices["engine"]:
            stays = choices["engine"].startswith("auto") and choice.startswith("inprocess")
            choices["engine"] = choice
            if not stays:  # which is recorded, but not announced
                self._simulation.progress.tell(f"engine: {choice}")


def run_rounds(
    folder: Path, simulation: Simulation, engine: Engine, state: RunState, own: Sequence[RoundObserver] = ()
) -> RunState:
    """Run the remaining rounds of a run, and save the last complete round if they end early.

    `own` are observers of the caller; their exceptions end the run like any other error.

    Returns the final state; afterwards `simulation.config` has the actual number of rounds.
    """
    config, there = simulation.config, Presence(folder)
    moved = simulation.worker.client.moved
    history = HistoryWriter(folder, config.history, moved) if config.history.keep != "none" else None
    checkpoints = Checkpoints(folder, simulation, engine, state)
    trackers: list[Tracker] = []
    try:
        if history is not None:
            history.rewind(state.round)
            for line in history.damaged()[:_WARNINGS]:
                simulation.progress.warn(f"{line}, or go on without what needs it")
        for rest in folder.glob(".*.tmp"):  # left by a process that was killed while it wrote
            rest.unlink()
        engine.states.spill_to(folder / ".states")
        (folder / "summary.json").unlink(missing_ok=True)
        state.ledger.save(folder)
        observers: list[RoundObserver] = [there, LedgerJournal(folder)]
        observers += [] if history is None else [history]
        observers += [MetricsFile(folder, state), checkpoints, EngineGauges(engine, simulation)]
        stopping = Stopping(folder, simulation, engine, state)
        trackers += [kind(folder, config, state.round) for kind in tracker_classes(config.log)]
        observers += [stopping, *trackers, *own, Watch(config, simulation.data.dataset, simulation.progress)]
        simulation.progress.begin(config, simulation.choices | engine.notes, state.round)
        while state.round < config.rounds and not stopping.over:
            end_if_heard()
            simulation.step(state, engine, observers)
        return stopping.settle(state, history)
    except BaseException as error:
        there.require(state.round)
        _leave(folder, simulation, state, engine, checkpoints, error)
        raise
    finally:
        if history is not None:
            history.discard()
        for tracker in trackers:
            tracker.close()
        simulation.progress.end()


def _leave(
    folder: Path,
    simulation: Simulation,
    state: RunState,
    engine: Engine,
    checkpoints: Checkpoints,
    error: BaseException,
) -> None:
    """Save the last complete round of a run that ends early."""
    interrupted = isinstance(error, KeyboardInterrupt)
    status = "stopped" if interrupted or isinstance(error, TooFewReplies) else "failed"
    status = "diverged" if isinstance(error, Diverged) else status
    engine.states.discard()
    # The disk may be the cause; the original error is raised anyway.
    unwritable = (FedsimError, OSError, SafetensorError)
    with uninterrupted():
        with contextlib.suppress(*unwritable):
            checkpoints.save(state)
        with contextlib.suppress(*unwritable):
            write_summary(folder, simulation, state, status, "interrupted" if interrupted else _text(error))


def disk_cause(error: Exception) -> str | None:
    """Return the error text of the disk if the disk caused the error."""
    if isinstance(error, SafetensorError) and "I/O error" in str(error):
        return str(error)
    cause = error.__cause__ if isinstance(error, FedsimError) else error
    return cause.strerror or str(cause) if isinstance(cause, OSError) else None


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) if isinstance(error, FedsimError) else f"{type(error).__name__}: {error}"
