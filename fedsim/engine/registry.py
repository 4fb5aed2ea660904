"""The registry of engines: each file of this package registers one, and users' files may register others."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.config.run import RunConfig
from fedsim.engine.base import Engine
from fedsim.engine.worker import Worker
from fedsim.federated.registry import declared, imported
from fedsim.plugins import plugin_of, register, registered

MakeEngine = Callable[[Worker, RunConfig, int], Engine]
"""(worker of this process, configuration, number of clients per chunk) -> engine, which the caller must close."""

_engines: dict[str, MakeEngine] = {}


def engine(name: str) -> Callable[[MakeEngine], MakeEngine]:
    """Register the decorated function as the factory of the engine `name`, a literal string.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def add(make: MakeEngine) -> MakeEngine:
        register(_engines, name, make, make.__module__, "engine")
        return make

    return add


def load_engine(name: str) -> MakeEngine:
    """Return the factory of the engine called `name`; only its file is imported.

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
