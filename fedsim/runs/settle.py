"""Fills in options that depend on the data: the model, the partition of regression data, and the number of clients."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import ValidationError

from fedsim.config.errors import one_line
from fedsim.config.run import RunConfig
from fedsim.data.datasets import Dataset
from fedsim.data.federation import owners_of
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.registry import Strategy
from fedsim.federated.types import State

_FLAT_MODEL, _TEXT_MODEL = "mlp", "lstm"
_FOR_NUMBERS = {"lr": 0.05, "clip_norm": 1.0}
"""Training defaults for squared errors: gradients grow with the error, so outliers would otherwise cause huge steps."""


def settled(config: RunConfig, dataset: Dataset) -> tuple[RunConfig, dict[str, str]]:
    """Return the configuration with open options filled in, and the reasons; given options are never changed.

    Raises
    ------
    FedsimError
        If a given option does not fit the data.
    """
    changes: dict[str, Any] = {}
    why: dict[str, str] = {} if dataset.reading is None else {"data": dataset.reading}
    if "name" not in config.model.model_fields_set and len(dataset.input_shape) == 1 and config.model.entry.min_side:
        options = config.model.model_dump(include=config.model.model_fields_set)
        name = _TEXT_MODEL if dataset.is_text else _FLAT_MODEL
        changes["model"] = {"name": name, **options}
        why["model"] = f"{name}, as {config.model.name} is for images"
        if dataset.is_regression and not config.training.model_fields_set & _FOR_NUMBERS.keys():
            changes["training"] = config.training.model_dump() | _FOR_NUMBERS
            if config.privacy.example is not None:  # which clips by itself
                del changes["training"]["clip_norm"]
            why["steps"] = "lr {lr} and clip_norm {clip_norm}, as squared errors have large gradients".format(
                **_FOR_NUMBERS
            )
    if "partition" not in config.data.model_fields_set and not dataset.has_classes:
        changes["data"] = {**config.data.model_dump(), "partition": {"name": "iid"}}
        why["partition"] = f"iid, as {config.data.partition.name} goes by classes"
    why |= _changed_samples(config)
    people = _people(config, dataset)
    if config.clients_by_data and people:
        changes["clients"] = people
    if not changes:
        return config, why
    try:
        # Pass the sections as objects: a dump would lose the type of the method's options.
        return RunConfig.model_validate({**dict(config), **changes}), why
    except ValidationError as error:
        raise FedsimError(one_line(error, RunConfig)) from None


def require_fitting(config: RunConfig, strategy: Strategy, dataset: Dataset) -> None:
    """Refuse a model or a method that does not fit the data's targets.

    Raises
    ------
    FedsimError
        With the name of the model or the method.
    """
    if not (dataset.is_regression or config.model.entry.intercept):  # methods and unlearning want one
        raise FedsimError(
            f"model.name: {config.model.name} predicts one number, not {dataset.num_classes} classes; use logistic"
        )
    reads = config.model.entry.reads
    if reads != "any" and (reads == "text") != dataset.is_text:
        fit, what = ("lstm or transformer", "is a text") if dataset.is_text else ("mlp or cnn", "is none")
        raise FedsimError(f"model.name: {config.model.name} reads {reads}, and {dataset.name} {what}; use {fit}")
    if config.data.augment != "none" and len(dataset.input_shape) < 3:
        raise FedsimError(f"data.augment: {config.data.augment} is for images, and {dataset.name} has none; use none")
    if not dataset.has_classes and strategy.client.needs_classes:
        what = "several labels" if dataset.has_several_labels else "numbers to predict"
        raise FedsimError(f"strategy.name: {strategy.name} needs classes, and {dataset.name} has {what}; try fedavg")


def require_trainable(config: RunConfig, client: Client, start: State, dataset: Dataset) -> None:
    """Refuse a model that has nothing to train in some phase, and views of samples that the data do not have.

    Raises
    ------
    FedsimError
        With the model, or the method.
    """
    if dataset.is_text and any(phase.strong is not None for phase in client.phases()):
        raise FedsimError(
            f"strategy.name: {config.strategy.name} augments its samples, and a text cannot be; try fedavg"
        )
    names = {*start.params, *client.personal(0, start).params}
    if not all(any(map(phase.trains, names)) for phase in client.phases()):
        raise FedsimError(
            f"model.name: {config.model.name} has no features below its classifier, which {config.strategy.name} "
            "trains apart from it; use mlp"
        )


def as_given(config: RunConfig) -> dict[str, Any]:
    """Return the configuration without the options that `settled` filled in; settled again, it gives the same."""
    dumped = config.model_dump()
    open_keys = (
        (dumped, config, "clients"),
        (dumped["data"], config.data, "partition"),
        (dumped["model"], config.model, "name"),
        (dumped["training"], config.training, "lr"),
        (dumped["training"], config.training, "clip_norm"),
    )
    for part, given, key in open_keys:
        if key not in given.model_fields_set:
            del part[key]
    return dumped


def _changed_samples(config: RunConfig) -> dict[str, str]:
    """Return in words what clients' samples have that the data set has not."""
    told = {}
    if (wrong := config.data.label_noise) is not None:
        share = f"{wrong.low:.0%}" if wrong.low == wrong.high else f"{wrong.low:.0%} to {wrong.high:.0%}"
        told["label_noise"] = f"{share} of each client's training labels are wrong"
    if (shift := config.data.feature_shift) is not None:
        given = shift.model_dump(exclude_defaults=True)
        how = ", ".join(f"{name} {value}" for name, value in given.items()) or "nothing"
        told["feature_shift"] = f"each client's inputs have their own {how}; those of the shared test set do not"
    return told


def _people(config: RunConfig, dataset: Dataset) -> int:
    """Return the number of clients of the natural partition."""
    if dataset.client_names is not None:
        return len(dataset.client_names)
    owners = owners_of(config.data, dataset)
    return 0 if owners is None else len(np.unique(owners))
