"""The source of a request: the model of a run or of an earlier outcome, and the data that the model may know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsim.config.resolve import resolve, user_settings
from fedsim.config.run import HistoryConfig, RunConfig
from fedsim.data.datasets import Dataset
from fedsim.data.federation import FederatedData
from fedsim.engine.select import choose_engine
from fedsim.engine.worker import resolve_device
from fedsim.errors import FedsimError
from fedsim.federated.registry import load_strategy
from fedsim.models.base import Classifier
from fedsim.runs.checkpoint import load_model
from fedsim.runs.folder import RunFolder
from fedsim.runs.frozen import FILE as FROZEN
from fedsim.runs.frozen import run_data, whole_data
from fedsim.runs.history import round_folders
from fedsim.runs.relocate import MOVED, relocated
from fedsim.runs.runner import load_run_tensors, require_same_data
from fedsim.training.first_model import build_run_model
from fedsim.training.precision import set_matrix_units, to_run_format

IntArray = npt.NDArray[np.int64]

MARK = "unlearn"
"""Section of config.yaml that distinguishes the folder of an outcome from a run folder."""

OUTCOME_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern for the name of an outcome."""


@dataclass(frozen=True, eq=False)
class Earlier:
    """An earlier request that led to the source."""

    spec: str
    folder: Path
    """Folder of its outcome."""
    rows: IntArray
    """(F,) forgotten training rows; empty after a purge."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model that is to forget samples: that of a finished run, or of an earlier outcome."""

    folder: RunFolder
    """Folder of the run or of the outcome."""
    config: RunConfig
    """Configuration of the run."""
    data: FederatedData
    """The data that the model may know, without the samples of earlier requests and of unseen clients."""
    everyone: FederatedData
    """The same data including unseen clients, as a folder derived from this one stores it."""
    device: torch.device
    model: Classifier
    """The global model, in evaluation mode on `device`."""
    root: Path
    """Folder of the run; outcomes, oracles and originals are below it."""
    earlier: tuple[Earlier, ...] = ()
    """The requests that led to the source, in order."""
    whole: Dataset | None = None
    """The data set including the samples of earlier requests, to measure whether they are remembered again; None if
    there are none."""

    @property
    def history(self) -> HistoryConfig:
        """The kept history of the rounds that led to the model."""
        there = len(round_folders(self.folder.path)) == self.config.rounds
        return self.config.history if there else HistoryConfig()


def open_source(path: Path, machine: Mapping[str, Any] | None = None) -> Source:
    """Open the folder of a finished run, or of an earlier outcome.

    `machine` contains machine settings, and the new folder of data that were moved.

    Raises
    ------
    FedsimError
        If it is neither, or its model or its data are missing or were changed.
    """
    folder = RunFolder.open(path)
    chain = _chain(path) if MARK in folder.config else ()
    root = path.resolve().parents[1] if chain else path
    if chain and not (path / FROZEN).is_file():
        raise FedsimError(f"{path / FROZEN}: is missing, and only it lists the allowed data; run fedsim unlearn again")
    if (run := RunFolder.open(root)).status != "finished":
        astray = run.status == "diverged"
        remedy = "run it anew with a lower training.lr" if astray else f"fedsim run --resume {root}"
        raise FedsimError(f"{root}: is {run.status}, and only a finished run can forget; {remedy}")
    machine = dict(machine or {})
    moved = relocated(run.config, machine.pop(MOVED, None))
    config, _ = choose_engine(resolve(user_settings(), run.config, moved, machine))
    if config.data.labelled_fraction < 1:
        raise FedsimError(f"{path}: was trained with data.labelled_fraction below 1; unlearning needs all labels")
    if load_strategy(config.strategy.name).prepare is not None:
        raise FedsimError(f"{path}: {config.strategy.name} does not train on single samples, so none can be forgotten")
    whole = whole_data(config) if any(len(request.rows) for request in chain) else None
    data = run_data(path, config, whole)
    if data.dataset.is_regression:
        raise FedsimError(f"{path}: predicts numbers, and unlearning needs classes; give a run on classes")
    require_same_data(folder, data)
    torch.set_num_threads(config.engine.threads)
    set_matrix_units(config.training)
    device = resolve_device(config.engine.device)
    model = trained_model(folder, config, data.dataset, device)
    trained_on = data.of_first(config.clients_seen)
    return Source(folder, config, trained_on, data, device, model, root, chain, whole and whole.dataset)


def further_model(folder: Path, seed: int) -> Path:
    """Return the file for the model of a further seed in the folder of an outcome."""
    return folder / "seeds" / f"{seed}.safetensors"


def kept_model(source: Source, seed: int) -> Classifier | None:
    """Return the source's model of a further seed; None if it is not kept."""
    file = further_model(source.folder.path, seed)
    if not source.earlier or not file.exists():
        return None
    model = build_run_model(source.config, source.data.dataset)
    try:
        model.load_state_dict(load_model(file))
    except RuntimeError:
        raise FedsimError(f"{file}: is not a model of this run; remove it") from None
    return to_run_format(model, source.config.training, source.device).eval()


def first_model(source: Source) -> Classifier:
    """Return the model of the run itself, before any of the source's requests."""
    if not source.earlier:
        return source.model
    return trained_model(RunFolder.open(source.root), source.config, source.data.dataset, source.device)


def _chain(outcome: Path) -> tuple[Earlier, ...]:
    """Return the requests that led to an outcome, its own last; each outcome names its predecessor, beside it."""
    chain: list[Earlier] = []
    name: str | None = outcome.resolve().name
    while name is not None:
        folder = outcome.resolve().parent / name
        asked = RunFolder.open(folder).config.get(MARK)
        if not isinstance(asked, Mapping) or any(request.folder == folder for request in chain):
            raise FedsimError(f"{folder / 'config.yaml'}: is not the configuration of an outcome; restore it")
        chain.append(Earlier(str(asked.get("forget")), folder, _rows(folder / "forget.npy")))
        name = asked.get("source")
        if name is not None and not (isinstance(name, str) and re.fullmatch(OUTCOME_NAME, name)):
            raise FedsimError(f"{folder / 'config.yaml'}: {MARK}.source: is not the name of an outcome; restore it")
    return tuple(reversed(chain))


def _rows(file: Path) -> IntArray:
    if not file.exists():
        return np.empty(0, np.int64)
    try:
        return np.asarray(np.load(file, allow_pickle=False), np.int64)
    except (OSError, ValueError, EOFError) as error:
        raise FedsimError(f"{file}: cannot be read ({' '.join(str(error).split())}); restore it") from None


def trained_model(folder: RunFolder, config: RunConfig, dataset: Dataset, device: torch.device) -> Classifier:
    """Return the final global model of a finished run on `device`, in evaluation mode.

    Raises
    ------
    FedsimError
        If the file is missing, or does not have the recorded hash.
    """
    model = build_run_model(config, dataset)
    model.load_state_dict(load_run_tensors(folder))
    return to_run_format(model, config.training, device).eval()
