"""Checks during training: whether the run diverges, and whether its folder still exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fedsim.config.run import RunConfig
from fedsim.data.datasets import Dataset
from fedsim.errors import Diverged, RunFailed
from fedsim.runs.observers import Beginning, RoundObserver
from fedsim.runs.progress import Progress
from fedsim.runs.state import Metrics, RunState

_ASTRAY = 100.0  # times the loss of guessing


def divergence(metrics: Mapping[str, float | None], dataset: Dataset) -> str | None:
    """Return the sign of divergence in the metrics of a round; None if there is none.

    Guessing costs ln C nats on C classes, ln 2 on labels, and 1 on numbers, which are learned in units of their
    deviation.
    """
    guessing = 1.0 if dataset.is_regression else math.log(max(dataset.num_classes, 2) if dataset.has_classes else 2)
    for name in ("train/loss", "global/loss"):
        value = metrics.get(name, 0.0)
        if value is None or not value <= _ASTRAY * guessing:  # a line of metrics.jsonl has null for NaN
            return f"{name} is {'not a number' if value is None else f'{value:.3g}'}"
    return None


class Watch(RoundObserver):
    """Warns once when training diverges, and stops it if the run asks for that."""

    def __init__(self, config: RunConfig, dataset: Dataset, progress: Progress) -> None:
        self._config, self._dataset, self._progress = config, dataset, progress
        self._warned = False

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Check the metrics of a round."""
        astray = divergence(metrics, self._dataset)
        if astray is None:
            return
        told = f"round {state.round}: the run diverges ({astray}); lower training.lr, or the server's step"
        if self._config.stop_on_divergence and state.round < self._config.rounds:
            raise Diverged(told)
        if not self._warned:
            self._progress.warn(told)
            self._warned = True


class Presence(RoundObserver):
    """Notices when the run's folder no longer exists under its name."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._was = folder, _identity(folder)

    def round_begins(self, beginning: Beginning) -> bool:
        """Check before anything is released."""
        self.require(beginning.state.round)
        return False

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Check before the round is written."""
        self.require(state.round)

    def require(self, server_round: int) -> None:
        """Raise an error if the folder is gone: further files would be useless, or would be part of another run."""
        if _identity(self._folder) != self._was:
            raise RunFailed(
                f"{self._folder}: was removed, renamed or replaced after {server_round} rounds, so the run stops; if "
                "it was renamed, fedsim run --resume NEW-NAME goes on from its last checkpoint"
            ) from None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
