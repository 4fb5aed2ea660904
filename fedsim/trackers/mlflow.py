"""MLflow: a run of the experiment `fedsim`, at $MLFLOW_TRACKING_URI or in a database in the run's folder."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from fedsim.config.run import RunConfig
from fedsim.trackers.base import Tracker, kept_id, options_of

_EXPERIMENT = "fedsim"
_MOST_LETTERS = 500  # characters of a parameter's value, at most
_MOST_PARAMETERS = 100  # parameters in one call, at most

logging.getLogger("mlflow").setLevel(logging.WARNING)  # otherwise it logs each database table that it creates


class MLflow(Tracker):
    """Records the metrics of each round, and the configuration as parameters."""

    def __init__(self, folder: Path, config: RunConfig, done: int) -> None:
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db")
        self._id = kept_id(folder, "mlflow", lambda: self._new(folder.name, config))

    def _new(self, name: str, config: RunConfig) -> str:
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(_EXPERIMENT)
        run = str(self._client.create_run(experiment, run_name=name).info.run_id)
        options = [Param(key, str(value)[:_MOST_LETTERS]) for key, value in options_of(config).items()]
        self._client.log_batch(run, params=options[:_MOST_PARAMETERS])
        return run

    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics at the round's step."""
        now = int(1000 * time.time())
        self._client.log_batch(self._id, [Metric(_allowed(n), v, now, server_round) for n, v in metrics.items()])

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._id)


def _allowed(name: str) -> str:
    """Return a metric's name with the characters that MLflow rejects replaced by `_`."""
    return "".join(char if char.isalnum() or char in "_-. :/" else "_" for char in name)


OF_THIS_FILE = MLflow
