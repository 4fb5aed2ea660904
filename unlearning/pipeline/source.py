"""What is to forget, a run or the outcome of an earlier request: its model, and the data that it may know."""

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
"""The section that only the configuration of an unlearning folder has."""

OUTCOME_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What an outcome may be called."""


@dataclass(frozen=True, eq=False)
class Earlier:
    """A request that the source has served before."""

    spec: str
    folder: Path
    """Of its outcome."""
    rows: IntArray
    """(F,) training rows that it forgot; empty once they were purged."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model that is to forget: of a finished run, or of a request before."""

    folder: RunFolder
    """Of the run or of the outcome."""
    config: RunConfig
    """Of the run."""
    data: FederatedData
    """What the model may know: nothing of what earlier requests forgot, or of clients that training never sees."""
    everyone: FederatedData
    """The same with the clients that training never sees: what a folder made of this one has."""
    device: torch.device
    model: Classifier
    """The global model, in evaluation mode on `device`."""
    root: Path
    """The folder of the run under which outcomes, oracles and originals are."""
    earlier: tuple[Earlier, ...] = ()
    """The requests that led here, the first one first."""
    whole: Dataset | None = None
    """The data set with what earlier requests forgot, to measure whether it comes back; None where that is nothing."""

    @property
    def history(self) -> HistoryConfig:
        """What is kept of the rounds that led to the model."""
        there = len(round_folders(self.folder.path)) == self.config.rounds
        return self.config.history if there else HistoryConfig()


def open_source(path: Path, machine: Mapping[str, Any] | None = None) -> Source:
    """Return the finished run, or the outcome of an earlier request, in a folder.

    `machine` are the settings of this machine, and the folder that the data have been moved to.

    Raises
    ------
    FedsimError
        If it is neither, or its model or its data is gone or not what it was.
    """
    folder = RunFolder.open(path)
    chain = _chain(path) if MARK in folder.config else ()
    root = path.resolve().parents[1] if chain else path
    if chain and not (path / FROZEN).is_file():
        raise FedsimError(f"{path / FROZEN}: is gone, and nothing else tells what its model may know; make it anew")
    if (run := RunFolder.open(root)).status != "finished":
        astray = run.status == "diverged"
        remedy = "run it anew with a lower training.lr" if astray else f"fedsim run --resume {root}"
        raise FedsimError(f"{root}: is {run.status}, and only a finished run forgets; {remedy}")
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
        raise FedsimError(f"{path}: predicts numbers, and unlearning is measured on classes; give a run on classes")
    require_same_data(folder, data)
    torch.set_num_threads(config.engine.threads)
    set_matrix_units(config.training)
    device = resolve_device(config.engine.device)
    model = trained_model(folder, config, data.dataset, device)
    trained_on = data.of_first(config.clients_seen)
    return Source(folder, config, trained_on, data, device, model, root, chain, whole and whole.dataset)


def further_model(folder: Path, seed: int) -> Path:
    """Return the file in the folder of an outcome that keeps its model under a further seed."""
    return folder / "seeds" / f"{seed}.safetensors"


def kept_model(source: Source, seed: int) -> Classifier | None:
    """Return the source's model under a further seed, if it is kept."""
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
    """Return the requests that led to an outcome, its own last; each names the one before it, in the same folder."""
    chain: list[Earlier] = []
    name: str | None = outcome.resolve().name
    while name is not None:
        folder = outcome.resolve().parent / name
        asked = RunFolder.open(folder).config.get(MARK)
        if not isinstance(asked, Mapping) or any(request.folder == folder for request in chain):
            raise FedsimError(f"{folder / 'config.yaml'}: is not that of an outcome; restore it")
        chain.append(Earlier(str(asked.get("forget")), folder, _rows(folder / "forget.npy")))
        name = asked.get("source")
        if name is not None and not (isinstance(name, str) and re.fullmatch(OUTCOME_NAME, name)):
            raise FedsimError(f"{folder / 'config.yaml'}: {MARK}.source: is no outcome's name; restore it")
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
        If it is not the one that the run recorded.
    """
    model = build_run_model(config, dataset)
    model.load_state_dict(load_run_tensors(folder))
    return to_run_format(model, config.training, device).eval()
