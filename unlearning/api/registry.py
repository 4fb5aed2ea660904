"""Unlearning methods by name: their needs, the requests they accept, and their options. Imports no torch.

One file is one method: a docstring, options (an `UnlearningConfig`), and under the decorator
`@unlearning("name", NameConfig, needs=Needs(retain=False), forgets={"class", "samples", "clients"})` the function
`unlearn(model, forget, retain, config, rng) -> model`. With one or more of `needs=Needs(history=True, updates=True,
clients=True)` it is `unlearn(federation, config) -> global tensors`, see `unlearning.api.federation`.
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
"""Where a method runs: in the federation, or on a server that has pooled the clients' raw data."""

KINDS = ("class", "samples", "clients")
"""The kinds of requests."""

RETRAIN = "retrain"
"""The name of retraining, when it is requested as a method."""
RETRAIN_SUMMARY = f"Retraining from scratch without the forgotten samples: the oracle. Forgets: {', '.join(KINDS)}."


def searched(low: float, high: float) -> dict[str, Any]:
    """Return the mark of an option that `--tune` searches, between these ends on a logarithmic scale."""
    return {"tune": [low, high]}


class UnlearningConfig(Config):
    """Options of one unlearning method; each method adds its own.

    The defaults are for forgetting a class. `defaults_for` has other defaults for samples and for clients.
    """

    defaults_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other defaults by kind of request, from `KINDS`."""

    name: str


Options = TypeVar("Options", bound=UnlearningConfig)

UnlearnSamples = Callable[["Classifier", "View", "View | None", Options, "np.random.Generator"], "Classifier"]
"""(model, forget, retain, options, generator) -> model.

The model is a private copy on the views' device; it may be changed in place and returned. The caller seeds torch's own
generators."""

UnlearnClients = Callable[["Federation", Options], "Tensors"]
"""(federation, options) -> the global tensors, for a method that needs history, updates or clients."""

Unlearn = UnlearnSamples[Options] | UnlearnClients[Options]


@dataclass(frozen=True)
class Method:
    """One unlearning method."""

    name: str
    config: type[UnlearningConfig]
    needs: Needs
    forgets: frozenset[str]
    """A subset of `KINDS`."""
    unlearn: Unlearn[Any]

    @property
    def where(self) -> Where:
        """Where the method runs."""
        return "federated" if self.needs.federation else "central"


_methods: dict[str, Method] = {}


def unlearning(
    name: str, config: type[Options], needs: Needs, forgets: Set[str]
) -> Callable[[Unlearn[Options]], Unlearn[Options]]:
    """Register the decorated function as the unlearning method `name`; all arguments except `config` are literals.

    Raises
    ------
    ValueError
        If the name is taken, or `forgets` has other values than "class", "samples" and "clients".
    """

    def add(function: Unlearn[Options]) -> Unlearn[Options]:
        if not forgets or set(forgets) - set(KINDS):
            raise ValueError(f"unlearning method {name!r} forgets {sorted(forgets)}; allowed: {', '.join(KINDS)}")
        method = Method(name, config, needs, frozenset(forgets), function)
        register(_methods, name, method, function.__module__, "unlearning method")
        return function

    return add


def load_unlearning(name: str) -> Method:
    """Return the unlearning method called `name`; only its file is imported.

    Raises
    ------
    FedsimError
        If there is no such method.
    """
    known = declared("unlearning", "unlearning")
    if (plugin := plugin_of(name)) is not None:
        return registered(_methods, plugin, "--method", "an unlearning method", known)
    if name not in known and (loaded := [method for method in _methods.values() if method.name == name]):
        return loaded[-1]  # from a user's file
    if (brought := installed("unlearning", known).get(name)) is not None:
        load_installed(brought, "--method")
        return brought_by(_methods, name, brought.value, "--method")
    return imported(_methods, known, name, f"--method {name}: no such unlearning method")


def describe_unlearning() -> dict[str, str]:
    """Return {method name: description, requests and needs}, read from the source without imports."""
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
