"""What looks on while a run trains: whether it goes astray, and whether its folder is still there."""

from __future__ import annotations

from pathlib import Path

from fedsim.errors import Diverged, RunFailed
from fedsim.runs.simulation import Metrics, Simulation


class Watch:
    """Warns, once, when training goes astray, and stops it if asked to."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation, self._warned = simulation, False

    def round_done(self, server_round: int, metrics: Metrics) -> None:
        """Look at a round's metrics."""
        config, astray = self._simulation.config, self._simulation.divergence(metrics)
        if astray is None:
            return
        told = f"round {server_round}: the run diverges ({astray}); lower training.lr, or the server's step"
        if config.stop_on_divergence and server_round < config.rounds:
            raise Diverged(told)
        if not self._warned:
            self._simulation.progress.warn(told)
            self._warned = True


class Presence:
    """Tells when the folder that a run writes to is no longer there under its name."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._was = folder, _identity(folder)

    def require(self, server_round: int) -> None:
        """Refuse to go on where it is not: what is written would be of no use, or part of another run."""
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
