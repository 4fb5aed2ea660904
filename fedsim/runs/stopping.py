"""Early stopping by a metric on samples that clients hold out; the run then has fewer rounds.

The run ends as if the best round had been the last: model, clients' states, checkpoint, history and configuration
are those of that round. What later rounds have released stays in the ledger, and their metrics in metrics.jsonl.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from fedsim.engine.base import Engine
from fedsim.errors import FedsimError, nearest
from fedsim.report.wording import direction
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.history import HistoryWriter
from fedsim.runs.observers import RoundObserver
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import Metrics, RunState

_BEST = "best"
_MADE_ON = "environment.json"
_USUAL = ("validation_clients/accuracy", "validation_clients/mse", "validation/accuracy", "validation/mse")


class Stopping(RoundObserver):
    """Tracks the metric, stores a checkpoint of the best round, and says when to stop."""

    def __init__(self, folder: Path, simulation: Simulation, engine: Engine, state: RunState) -> None:
        self._folder, self._simulation, self._engine = folder / _BEST, simulation, engine
        self._metric: str | None = None
        self.best, self.value, self._waited = 0, math.nan, 0
        """The best round, its value, and the number of evaluations since then."""
        for line in state.metrics:  # metrics of a resumed run
            self._see(line["round"], line["metrics"])

    @property
    def over(self) -> bool:
        """Whether training stops after this round."""
        stop = self._simulation.config.stop
        return stop is not None and stop.patience is not None and self._waited >= stop.patience

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Read the round's metrics; save a checkpoint if it is the best round."""
        if self._see(state.round, metrics):
            self._folder.mkdir(exist_ok=True)
            # This marks the checkpoint as written by this version.
            shutil.copyfile(self._folder.parent / _MADE_ON, self._folder / _MADE_ON)
            self._simulation.checkpoint(state, self._engine).save(self._folder)

    def _see(self, server_round: int, metrics: Mapping[str, float | None]) -> bool:
        """Return whether the round is the best so far; False if it was not evaluated."""
        stop = self._simulation.config.stop
        measured = [name for name in metrics if name.startswith("validation")]
        if stop is None or not measured:
            return False
        if self._metric is None:
            self._metric = stop.metric or next(name for name in (*_USUAL, *measured) if name in measured)
            if self._metric not in measured:
                raise FedsimError(f"stop.metric: {self._metric} is not measured; {nearest(self._metric, measured)}")
        value = metrics.get(self._metric)
        value = math.nan if value is None else value
        gain = value - self.value if direction(self._metric) == "higher" else self.value - value
        if gain > stop.min_delta or (math.isnan(self.value) and not math.isnan(value)):
            self.best, self.value, self._waited = server_round, value, 0
            return True
        self._waited += 1
        return False

    def settle(self, state: RunState, history: HistoryWriter | None) -> RunState:
        """Reduce the run to its best round, and return the state after it."""
        simulation = self._simulation
        config, stop = simulation.config, simulation.config.stop
        if stop is None:
            return state
        done, asked, best = state.round, config.rounds, load_latest(self._folder)
        if stop.keep == "best" and best is not None and best.round < done:
            ledger, seconds, failures = state.ledger, state.seconds, state.failures
            state = simulation.restore(best, self._engine)
            state.ledger, state.seconds, state.failures = ledger, seconds, failures
            if history is not None:
                history.rewind(state.round)
            for later in (self._folder.parent / "checkpoints").glob("round-*"):
                shutil.rmtree(later)
        rounds = {"rounds": state.round, "stop": None}
        simulation.config = simulation.worker.config = config.model_copy(update=rounds)
        simulation.checkpoint(state, self._engine).save(self._folder.parent)
        state.ledger.save(self._folder.parent)
        of = f"{done} that were run" if done == asked else f"{done} that were run, of {asked}"
        simulation.choices["rounds"] = f"ends with round {state.round} of {of}; {self._metric} is best in {self.best}"
        return state


def discard_best(folder: Path) -> None:
    """Remove the checkpoint of the best round, which now is the run's own checkpoint."""
    shutil.rmtree(folder / _BEST, ignore_errors=True)
