"""Weights & Biases: a run of the project `fedsim`, or of $WANDB_PROJECT; WANDB_MODE=offline keeps it in the folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import wandb

from fedsim.config.run import RunConfig
from fedsim.trackers.base import Tracker, kept_id, options_of


class WeightsAndBiases(Tracker):
    """Records the metrics of each round, and the configuration."""

    def __init__(self, folder: Path, config: RunConfig, done: int) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fedsim"), name=folder.name, dir=str(folder),
            id=kept_id(folder, "wandb", lambda: uuid.uuid4().hex[:16]), resume="allow",
            config=options_of(config), settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics at the round's step."""
        self._run.log(dict(metrics), step=server_round)

    def close(self) -> None:
        """Send the remaining metrics and end the run."""
        self._run.finish()


OF_THIS_FILE = WeightsAndBiases
