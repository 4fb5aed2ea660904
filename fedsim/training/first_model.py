"""The initial model of a run, on the CPU in the run's number format."""

from __future__ import annotations

import torch

from fedsim.config.run import RunConfig
from fedsim.data.datasets import Dataset
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.start import load_start
from fedsim.training.precision import to_run_format


def build_run_model(config: RunConfig, dataset: Dataset) -> Classifier:
    """Return a new model with weights drawn by the seed; also used for models whose weights are loaded afterwards."""
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.seed)
    return to_run_format(model, config.training, torch.device("cpu"))


def first_model(config: RunConfig, dataset: Dataset) -> Classifier:
    """Return the model with which server and clients start: drawn by the seed, or loaded from `start`."""
    model = build_run_model(config, dataset)
    if config.start is not None:
        load_start(model, config.start)
    return model
