"""The run that is to forget: its model and its data, bit for bit as it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedsim.config.resolve import resolve, user_settings
from fedsim.config.run import RunConfig
from fedsim.data.datasets import Dataset
from fedsim.data.federation import FederatedData, federate
from fedsim.engine.select import choose_engine
from fedsim.engine.worker import resolve_device
from fedsim.errors import FedsimError
from fedsim.federated.registry import load_strategy
from fedsim.models.base import Classifier
from fedsim.runs.folder import RunFolder
from fedsim.runs.runner import load_run_tensors, require_same_data
from fedsim.runs.simulation import build_run_model
from fedsim.training.precision import prepare, set_matrix_units

MARK = "unlearn"
"""The section that only the configuration of an unlearning folder has."""


@dataclass(frozen=True, eq=False)
class Source:
    """A finished run, ready to be unlearned."""

    folder: RunFolder
    config: RunConfig
    data: FederatedData
    device: torch.device
    model: Classifier
    """Its final global model, in evaluation mode on `device`."""


def open_source(path: Path, machine: Mapping[str, Any] | None = None) -> Source:
    """Return the finished run in a folder, to be worked on with the settings `machine` of this machine.

    Raises
    ------
    FedsimError
        If it is no finished run, or its model or its data is gone or not what it was.
    """
    folder = RunFolder.open(path)
    if MARK in folder.config:
        raise FedsimError(f"{path}: is the result of an unlearning; give the run above it, {path.resolve().parents[1]}")
    if folder.status != "finished":
        astray = folder.status == "diverged"
        remedy = "run it anew with a lower training.lr" if astray else f"fedsim run --resume {path}"
        raise FedsimError(f"{path}: is {folder.status}, and only a finished run forgets; {remedy}")
    config, _ = choose_engine(resolve(user_settings(), folder.config, machine or {}))
    if config.data.labelled_fraction < 1:
        raise FedsimError(f"{path}: was trained with data.labelled_fraction below 1; unlearning needs all labels")
    if load_strategy(config.strategy.name).prepare is not None:
        raise FedsimError(f"{path}: {config.strategy.name} does not train on single samples, so none can be forgotten")
    data = federate(config.data, config.clients, config.seed)
    if data.dataset.is_regression:
        raise FedsimError(f"{path}: predicts numbers, and unlearning is measured on classes; give a run on classes")
    require_same_data(folder, data)
    torch.set_num_threads(config.engine.threads)
    set_matrix_units(config.training)
    device = resolve_device(config.engine.device)
    return Source(folder, config, data, device, trained_model(folder, config, data.dataset, device))


def trained_model(folder: RunFolder, config: RunConfig, dataset: Dataset, device: torch.device) -> Classifier:
    """Return the final global model of a finished run on `device`, in evaluation mode.

    Raises
    ------
    FedsimError
        If it is not the one that the run recorded.
    """
    model = build_run_model(config, dataset)
    model.load_state_dict(load_run_tensors(folder))
    return prepare(model, config.training, device).eval()
