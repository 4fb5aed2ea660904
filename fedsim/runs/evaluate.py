"""Evaluates a finished model on a data set: that of its run, a named one, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from fedsim.config.errors import one_line
from fedsim.config.resolve import recorded_config, resolve, set_key
from fedsim.config.run import RunConfig
from fedsim.data.config import DataConfig
from fedsim.data.datasets import Dataset, load_dataset, load_newcomers
from fedsim.data.npz import Array
from fedsim.errors import FedsimError
from fedsim.evaluation import TestSet
from fedsim.models.portable import Description, load_model
from fedsim.plugins import plugin_of
from fedsim.runs.frozen import run_data

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["test", "train", "all"]
PARTS: tuple[Part, ...] = ("test", "train", "all")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns."""

    model: str
    dataset: str
    samples: int
    metrics: dict[str, float]
    """Accuracy, loss, balanced accuracy, F1 and AUC; or mse and r2."""
    per_class: npt.NDArray[np.float64]
    """(C,) accuracies, NaN for a class without samples; (0,) for numbers."""
    class_names: tuple[str, ...] | None = None

    def frame(self) -> pd.DataFrame:
        """Return the metrics as a table with one row."""
        import pandas as pd

        return pd.DataFrame([self.metrics], index=pd.Index([self.model], name="model"))

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"<Evaluation of {self.model} on {self.samples:,} samples of {self.dataset}: {told}>"


def evaluate(
    model: str | Path, dataset: str | None = None, *, part: Part | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Evaluation:  # fmt: skip
    """Return the metrics of a model on the test samples of its own run, or on another data set.

    Parameters
    ----------
    model
        The folder of a run, of an unlearning or a pruning, or an exported .safetensors file.
    dataset
        A name, `npz:FILE`, `csv:FILE`, `text:FILE`, `folder:FOLDER` or a file of one's own; needed where the model is a
        file alone.
    part
        Which rows; by default the test rows of the run's own and of named sets, and all of a file.
    overrides
        Dotted keys of the data, such as {"data.root": ..., "data.csv.target": ...}.

    Raises
    ------
    FedsimError
        If there is no model or no data, or the model cannot take the data as input.
    """
    portable = load_model(model)
    run = _run_of(Path(model))
    if dataset is None and run is None:
        raise FedsimError(f"{model}: is a model without its run, so name the data: --dataset")
    data = _data(run, dataset, overrides or {})
    data = _as_known(data, portable.description, f"--dataset {dataset}" if dataset else str(model))
    file = dataset is not None and (":" in dataset or plugin_of(dataset) is not None)
    x, y = _rows(data, part or ("all" if file else "test"))
    head = portable.classifier
    dtype = head.classifier.weight.dtype
    tests = TestSet(replace(data, x_test=x, y_test=y, truth_test=None), torch.device("cpu"), dtype, "all")
    score = tests.score(lambda batch: {"model": head(batch)})["model"]
    metrics = {name.lstrip("/"): value for name, value in score.metrics("", {}).items()}
    return Evaluation(str(model), data.name, len(y), metrics, score.per_class, data.class_names)


def _run_of(folder: Path) -> tuple[Path, RunConfig] | None:
    """Return the folder of a run, or of an outcome inside a run, and the run's configuration; None for a file."""
    for place in (folder, *folder.resolve().parents[1:2]):
        if folder.is_dir() and (place / "config.yaml").is_file():
            recorded = recorded_config(place)
            if "strategy" in recorded:
                return folder, resolve(recorded)
    return None


def _data(run: tuple[Path, RunConfig] | None, dataset: str | None, overrides: Mapping[str, Any]) -> Dataset:
    given: dict[str, Any] = {}
    for key, value in overrides.items():
        set_key(given, key, value)
    if unknown := set(given) - {"data"}:
        raise FedsimError(f"--set {unknown.pop()}: an evaluation has keys of data only, such as data.csv.target")
    if run is not None and (dataset is None or dataset.startswith(("npz:", "csv:"))):
        folder, config = run
        own = run_data(folder, config.model_copy(update={"data": _config(config.data, {}, given)})).dataset
        if dataset is None:
            return own
        return load_newcomers(_config(config.data, {"name": dataset}, given), config.seed, own)
    if run is not None and dataset is not None and dataset.startswith("text:"):
        cut = {"name": dataset, "text": run[1].data.text.model_dump(), "partition": "iid"}
        return load_dataset(_config(DataConfig(), cut, given), 0)
    return load_dataset(_config(DataConfig(), {"name": dataset}, given), 0)


def _config(base: DataConfig, name: Mapping[str, Any], given: Mapping[str, Any]) -> DataConfig:
    try:
        told = given.get("data", {})
        csv = {**base.csv.model_dump(), **told.get("csv", {})}
        return DataConfig.model_validate({**base.model_dump(), **told, "csv": csv, **name})
    except ValidationError as error:
        raise FedsimError(one_line(error, DataConfig, "data")) from None


def _as_known(data: Dataset, model: Description, where: str) -> Dataset:
    """Return the data set with the inputs and class numbers that the model was trained with."""
    if data.input_shape != model.input_shape:
        remedy = f"; --set data.text.length={model.input_shape[0]}" if data.is_text and model.text else ""
        shapes = f"has inputs of shape {data.input_shape}, and the model takes {model.input_shape}"
        raise FedsimError(f"{where}: {shapes}{remedy}")
    if data.is_text != model.text:
        raise FedsimError(f"{where}: is {'a' if data.is_text else 'no'} text, and the model reads another kind of data")
    if data.targets != model.predicts:
        raise FedsimError(f"{where}: is labelled with {data.targets}, and the model predicts {model.predicts}")
    if data.targets == "classes":
        data = _numbered(data, model, where)
    if data.input_scale is None:
        return replace(data, mean=model.mean, std=model.std)
    centre, unit = map(np.asarray, data.input_scale)
    mean, std = np.asarray(model.mean), np.asarray(model.std)
    x_train, x_test = (((x * unit + centre - mean) / std).astype(np.float32) for x in (data.x_train, data.x_test))
    return replace(data, x_train=x_train, x_test=x_test)


def _numbered(data: Dataset, model: Description, where: str) -> Dataset:
    ours, theirs = model.class_names, data.class_names
    if ours is None or theirs is None or ours == theirs:
        if data.num_classes > model.outputs:
            raise FedsimError(f"{where}: has {data.num_classes} classes, and the model knows {model.outputs}")
        return replace(data, num_classes=model.outputs, class_names=ours or theirs)
    if data.is_text:
        known = {name: place for place, name in enumerate(ours)}
        numbers = np.array([known.get(name, len(ours) - 1) for name in theirs], np.int16)  # the last one: unknown
        return replace(
            data, x_train=numbers[data.x_train], y_train=numbers[data.y_train].astype(np.int64),
            x_test=numbers[data.x_test], y_test=numbers[data.y_test].astype(np.int64), num_classes=model.outputs,
            class_names=ours,
        )  # fmt: skip
    if strange := [name for name in theirs if name not in ours]:
        raise FedsimError(f"{where}: has a class {strange[0]!r}, and the model knows {', '.join(ours)}")
    number = np.array([ours.index(name) for name in theirs])
    return replace(
        data, y_train=number[data.y_train], y_test=number[data.y_test], num_classes=model.outputs, class_names=ours
    )


def _rows(data: Dataset, part: Part) -> tuple[Array, Array]:
    if part == "test":
        return data.x_test, data.y_test
    if part == "train":
        return data.x_train, data.y_train
    return np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
