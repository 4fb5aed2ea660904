"""TensorBoard: event files in the run's folder; `tensorboard --logdir runs` shows all runs of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fedsim.config.run import RunConfig
from fedsim.trackers.base import Tracker


class TensorBoard(Tracker):
    """Writes the metrics of each round as scalars, and the configuration as text."""

    def __init__(self, folder: Path, config: RunConfig, done: int) -> None:
        # A killed run may have logged rounds after its checkpoint. They run again, so their old values are purged.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        if not done:
            self._writer.add_text("configuration", f"```yaml\n{config.to_yaml()}```", 0)

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics and flush, so that a reader sees them at once."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


OF_THIS_FILE = TensorBoard
