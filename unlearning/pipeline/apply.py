"""Runs one unlearning method on one model; the method gets only the inputs that it declares."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import ValidationError

from fedsim.config.errors import one_line
from fedsim.config.run import HistoryConfig
from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Ledger
from fedsim.randomness import generator, torch_draws, torch_seed
from fedsim.runs.checkpoint import save_model
from fedsim.schema import Config
from unlearning.api.federation import Federation
from unlearning.api.registry import Method, UnlearnClients, UnlearningConfig, UnlearnSamples
from unlearning.pipeline.forget import Request
from unlearning.pipeline.memory import peak_memory
from unlearning.pipeline.roles import Roles, views_for

Options = TypeVar("Options", bound=Config)


@dataclass(frozen=True, eq=False)
class Unlearned:
    """The result of an unlearning method."""

    model: Classifier
    """The resulting model, in evaluation mode."""
    seconds: float
    """Time of the method in seconds, without evaluation."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Other costs, by their names in the catalogue."""
    spent: tuple[Ledger, ...] = ()
    """Privacy releases of clients during the method."""
    left: Path | None = None
    """The folder that a federated method writes for the next request: its model, and the history of its replay."""


def options_of(method: Method, given: Mapping[str, Any], kind: str = "class") -> UnlearningConfig:
    """Return a method's options: `given`, which is validated, over the defaults for this kind of request."""
    return validated(method.config, method.name, {**method.config.defaults_for.get(kind, {}), **given})


def validated(config: type[Options], name: str, given: Mapping[str, Any]) -> Options:
    """Return the validated options of the method called `name`."""
    try:
        return config.model_validate({"name": name, **given})
    except ValidationError as error:
        raise FedsimError(f"--set {one_line(error, config, name, owner=name)}") from None


def refusal(method: Method, request: Request, history: HistoryConfig) -> str | None:
    """Return why a method cannot serve a request on a run with this history, None if it can."""
    if request.kind not in method.forgets:
        return f"{method.name} forgets {' and '.join(sorted(method.forgets))}, not {request.kind}"
    if request.several_labels and method.needs.one_label and not method.needs.federation:
        return f"{method.name} needs one class for each sample, and these have several labels"
    if method.needs.updates and history.keep != "updates":
        return f"{method.name} needs what clients sent, which is not kept here (history.keep=updates keeps it)"
    if method.needs.history and history.keep == "none":
        return f"{method.name} needs the models of all rounds, which are not kept here (history.keep=norms keeps them)"
    return None


def unlearn_with(method: Method, options: UnlearningConfig, model: Classifier, roles: Roles, seed: int) -> Unlearned:
    """Apply the method to a copy of `model`; equal arguments give equal bits on one kind of machine."""
    purpose = f"unlearn-{method.name}"
    forget, retain = views_for(roles, method.needs, generator(seed, f"{purpose}-noise"))
    device = forget.x.device
    private = copy.deepcopy(model).eval().requires_grad_(method.needs.gradients)
    torch.optim.SGD([torch.zeros(())], lr=1.0)  # the first optimiser of a process imports slowly
    draws = torch_draws(torch_seed(seed, f"{purpose}-torch"), device)
    with draws, peak_memory(device) as peak, torch.set_grad_enabled(method.needs.gradients):
        begun = time.perf_counter()
        unlearn = cast("UnlearnSamples[Any]", method.unlearn)
        result = unlearn(private, forget, retain, options, generator(seed, purpose))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begun
    if not isinstance(result, Classifier):
        raise TypeError(f"{method.name} must return a Classifier, got {type(result).__name__}")
    costs = {} if peak.megabytes is None else {"peak_mb": peak.megabytes}
    return Unlearned(result.eval().requires_grad_(True), seconds, costs)


def unlearn_federated(method: Method, options: UnlearningConfig, federation: Federation, left: Path) -> Unlearned:
    """Apply a method that works on the federation; its random draws are those of the run.

    `left` is the folder for the files that the next request needs.
    """
    with peak_memory(federation.device) as peak, federation:
        begun = time.perf_counter()
        tensors = cast("UnlearnClients[Any]", method.unlearn)(federation, options)
        seconds = time.perf_counter() - begun
    memory = {} if peak.megabytes is None else {"peak_mb": peak.megabytes}
    model = federation.model(tensors).eval()
    federation.complete_record(tensors)
    left.mkdir(parents=True, exist_ok=True)
    save_model(left / "model.safetensors", model.state_dict())
    return Unlearned(model, seconds, federation.costs() | memory, federation.spent(), left)
