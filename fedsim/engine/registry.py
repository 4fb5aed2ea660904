"""Engines by name: each file here registers its own, and a user's file may register another."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.config.run import RunConfig
from fedsim.engine.base import Engine
from fedsim.engine.worker import Worker
from fedsim.federated.registry import declared, imported
from fedsim.plugins import plugin_of, registered, registry_key

MakeEngine = Callable[[Worker, RunConfig, int], Engine]
"""(worker of this process, configuration, clients of a chunk) -> the engine, which its caller closes."""

_engines: dict[str, MakeEngine] = {}


def engine(name: str) -> Callable[[MakeEngine], MakeEngine]:
    """Register the function below as what makes the engine `name`, a literal string.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(make: MakeEngine) -> MakeEngine:
        key = registry_key(name, make.__module__)
        if key in _engines:
            raise ValueError(f"engine {name!r} is registered twice")
        _engines[key] = make
        return make

    return register


def load_engine(name: str) -> MakeEngine:
    """Return what makes the engine called `name`, importing its file only.

    Raises
    ------
    FedsimError
        If there is no such engine.
    """
    if name in _engines:
        return _engines[name]
    known = declared("fedsim.engine", "engine")
    if (plugin := plugin_of(name)) is not None:
        return registered(_engines, plugin, "engine.name", "an engine", known)
    return imported(_engines, known, name, f"engine.name: no such engine {name!r}")
