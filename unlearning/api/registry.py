"""Unlearning methods by name: what they need, what they forget, their options. Imports no torch.

One file, one method: its docstring, its options (an `UnlearningConfig`), and under the decorator
`@unlearning("name", NameConfig, needs=Needs(retain=False), forgets={"class", "samples", "clients"})` the function
`unlearn(model, forget, retain, config, rng) -> model`; or, with `needs=Needs(history=True, updates=True, clients=True)`
or some of these, `unlearn(federation, config) -> global tensors`, see `unlearning.api.federation`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from fedsim.federated.registry import brought_by, declared, imported
from fedsim.installed import described, installed, load_installed
from fedsim.plugins import plugin_of, register, registered
from fedsim.schema import Config
from unlearning.api.needs import Needs

if TYPE_CHECKING:
    import numpy as np

    from fedsim.flower.records import Tensors
    from fedsim.models.base import Classifier
    from unlearning.api.federation import Federation
    from unlearning.api.view import View

Where = Literal["federated", "central"]
"""In the federation, or on a server that has pooled the clients' raw data."""

KINDS = ("class", "samples", "clients")
"""What a request can name."""

RETRAIN = "retrain"
"""The name by which the oracle is asked for as a method."""
RETRAIN_SUMMARY = f"Retraining from scratch without it: the oracle itself. Forgets: {', '.join(KINDS)}."


def searched(low: float, high: float) -> dict[str, Any]:
    """Return what marks an option as one that `--tune` searches, between these ends on a logarithmic scale."""
    return {"tune": [low, high]}


class UnlearningConfig(Config):
    """Options of one unlearning method; each method adds its own.

    The defaults are for forgetting a class. `defaults_for` says what differs for samples and for clients.
    """

    defaults_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Defaults by kind of request, from `KINDS`, over those of the fields."""

    name: str


Options = TypeVar("Options", bound=UnlearningConfig)

UnlearnSamples = Callable[["Classifier", "View", "View | None", Options, "np.random.Generator"], "Classifier"]
"""(model, forget, retain, options, generator) -> model.

The model is a private copy on the views' device; it may be changed in place and returned. Torch's own generators are
seeded by the caller."""

UnlearnClients = Callable[["Federation", Options], "Tensors"]
"""(federation, options) -> the global tensors: of a method that needs history, updates or clients."""

Unlearn = UnlearnSamples[Options] | UnlearnClients[Options]


@dataclass(frozen=True)
class Method:
    """One unlearning method."""

    name: str
    config: type[UnlearningConfig]
    needs: Needs
    forgets: frozenset[str]
    """Of `KINDS`."""
    unlearn: Unlearn[Any]

    @property
    def where(self) -> Where:
        """Where it runs."""
        return "federated" if self.needs.federation else "central"


_methods: dict[str, Method] = {}


def unlearning(
    name: str, config: type[Options], needs: Needs, forgets: Set[str]
) -> Callable[[Unlearn[Options]], Unlearn[Options]]:
    """Register the function below as the unlearning method `name`; every argument but `config` is a literal.

    Raises
    ------
    ValueError
        If the name is taken, or `forgets` is not from "class", "samples" and "clients".
    """

    def add(function: Unlearn[Options]) -> Unlearn[Options]:
        if not forgets or set(forgets) - set(KINDS):
            raise ValueError(f"unlearning method {name!r} forgets {sorted(forgets)}; allowed: {', '.join(KINDS)}")
        method = Method(name, config, needs, frozenset(forgets), function)
        register(_methods, name, method, function.__module__, "unlearning method")
        return function

    return add


def load_unlearning(name: str) -> Method:
    """Return the unlearning method called `name`, importing its file only.

    Raises
    ------
    FedsimError
        If there is no such method.
    """
    known = declared("unlearning", "unlearning")
    if (plugin := plugin_of(name)) is not None:
        return registered(_methods, plugin, "--method", "an unlearning method", known)
    if name not in known and (loaded := [method for method in _methods.values() if method.name == name]):
        return loaded[-1]  # of a user's file
    if (brought := installed("unlearning", known).get(name)) is not None:
        load_installed(brought, "--method")
        return brought_by(_methods, name, brought.value, "--method")
    return imported(_methods, known, name, f"--method {name}: no such unlearning method")


def describe_unlearning() -> dict[str, str]:
    """Return {method name: what it is, forgets and needs}, read from the source: nothing is imported."""
    lines = {}
    for name, method in declared("unlearning", "unlearning").items():
        arguments = dict(zip(("name", "config", "needs", "forgets"), method.call.args, strict=False))
        arguments |= {keyword.arg: keyword.value for keyword in method.call.keywords if keyword.arg}
        needs = arguments["needs"].keywords if isinstance(arguments["needs"], ast.Call) else []
        flags = {need.arg: ast.literal_eval(need.value) for need in needs if need.arg}
        forgets = sorted(ast.literal_eval(arguments["forgets"]), key=KINDS.index)
        asked = Needs(**flags)
        where = "federated" if asked.federation else "central, pools the clients' raw data"
        lines[name] = f"{method.summary} Forgets: {', '.join(forgets)}. Needs: {asked.words()}. Runs: {where}."
    return lines | described("unlearning", lines)
