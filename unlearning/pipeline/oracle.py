"""The gold standard: the same federation trained from scratch without the samples to forget."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsim.config.resolve import resolve
from fedsim.config.run import HistoryConfig, RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError, InUse
from fedsim.models.base import Classifier
from fedsim.runs.folder import RunFolder
from fedsim.runs.progress import Progress
from fedsim.runs.runner import begin_or_resume
from fedsim.runs.simulation import Simulation
from unlearning.pipeline.source import Source, trained_model

FOLDERS = ("oracles", "originals")
"""Folders under `unlearned/` of trained runs: without the forgotten samples, and with them under other seeds."""
MEMBERS = "members"
"""Folder under `unlearned/` of models that were trained without run folders, see `unlearning.pipeline.ensemble`."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that was trained by a complete run."""

    folder: Path
    model: Classifier
    """The model in evaluation mode, on the source's device."""
    seconds: float
    """Wall time of the training in seconds, see `training_seconds`."""


def retrained(
    source: Source,
    data: FederatedData,
    seed: int,
    kind: str,
    progress: Progress | None = None,
    *,
    history: bool = False,
) -> TrainedModel:
    """Return the model of the source's recipe trained on `data` with `seed`; a cached one is reused.

    It has a run folder of its own under `unlearned/` of the source, named by the hash of recipe and data: it shows its
    progress and can be continued like any run. Clients draw as they did in the source, from addresses of
    seed, round and client; those without data are never sampled.

    Parameters
    ----------
    source
        Provides the recipe.
    data
        The source's data, or what remains of it.
    seed
        Seed of initial weights, cohorts and batches; the partition is that of `data`.
    kind
        One of `FOLDERS`.
    progress
        Shows the progress.
    history
        Keep a history like the source: the oracle will be the source of the next request.
    """
    parent = source.root / "unlearned" / kind
    config = source.config.model_copy(update={"seed": seed})
    if kind == FOLDERS[0] and not history:
        config = config.model_copy(update={"history": HistoryConfig()})  # it never serves a request
    name = recipe_hash(config, data)
    # The comparison measures this model, so the run needs no evaluations, plots or report.
    engine = config.engine  # Ray takes longer to start than many trainings; `auto` takes it where its options are set
    engine = engine.model_copy(update={"name": "auto"}) if engine.name == "ray" else engine
    member = {"name": name, "out": parent, "eval_every": config.rounds, "eval_clients": "none", "engine": engine}
    config = config.model_copy(update=member)
    folder = parent / name
    try:
        if not folder.exists() or RunFolder.open(folder).status not in ("finished", "diverged"):
            begin_or_resume(folder, Simulation(config, progress, data), pictures=False)
        opened = RunFolder.open(folder)
        model = trained_model(opened, config, data.dataset, source.device)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command continues from here") from None
    except InUse:
        raise
    except FedsimError as error:
        raise type(error)(f"no {kind.removesuffix('s')} ({error}); remove {folder} to train it anew") from None
    return TrainedModel(folder, model, training_seconds(opened, data))


def recipe_hash(config: RunConfig, data: FederatedData) -> str:
    """Return 16 hexadecimal digits that identify the recipe and the data."""
    recipe = config.model_dump(mode="json", exclude={"name", "out", "engine", "history"})
    told = json.dumps([recipe, data.content_hash], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def training_seconds(folder: RunFolder, data: FederatedData) -> float:
    """Return the training time of a run's clients and server, without evaluations."""
    cohort = min(resolve(folder.config).cohort_size, int(np.count_nonzero(data.partition.sizes)))
    return float((cohort / folder.series("train/clients_per_s")[1]).sum())
