"""Parts that installed packages bring, by entry points: listed beside ours, and imported when they are asked for.

A package declares, in its pyproject.toml, a module that registers a method (`fedsim.strategies`, `fedsim.unlearning`),
a class of networks (`fedsim.models`), or a function: one that returns a data set (`fedsim.datasets`), cuts one
(`fedsim.partitions`), or measures a model (`fedsim.metrics`) or what it has forgotten (`fedsim.forgetting_metrics`):

    [project.entry-points."fedsim.strategies"]
    entropy = "my_package.entropy"
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from fedsim.errors import FedsimError, reason_of
from fedsim.plugins import own_function, plugin_of

Kind = Literal["strategies", "unlearning", "models", "datasets", "partitions", "metrics", "forgetting_metrics"]


def installed(kind: Kind, ours: Collection[str]) -> dict[str, EntryPoint]:
    """Return what packages bring, by name; a name of `ours` stays ours, which is said once."""
    found = _brought(kind, tuple(sys.path))
    for name in sorted(found.keys() & set(ours)):
        _tell_clash(kind, name, str(found[name].value))
    return {name: point for name, point in found.items() if name not in ours}


@functools.cache
def _brought(kind: Kind, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Return all of a kind; looking through every package takes long, so it is done once for a search path."""
    return {point.name: point for point in entry_points(group=f"fedsim.{kind}")}


@functools.cache
def _tell_clash(kind: str, name: str, value: str) -> None:
    sys.stderr.write(f"note: {value} brings {name!r} of fedsim.{kind}, a name of fedsim's own, which is taken\n")


def described(kind: Kind, ours: Collection[str]) -> dict[str, str]:
    """Return one line for each name: which package brings it."""
    lines = {}
    for name, point in installed(kind, ours).items():
        package = point.dist
        lines[name] = f"of the package {package.name} {package.version}" if package else f"of {point.value}"
    return lines


def own_or_installed(name: str, kind: Kind, where: str, what: str) -> Callable[..., Any]:
    """Return the function that a name such as `./mine.py:name` stands for, or that an installed package brings.

    Raises
    ------
    FedsimError
        If there is none; the line begins with `where`.
    """
    if (plugin := plugin_of(name)) is not None:
        return own_function(plugin, where, what)
    if (point := installed(kind, ()).get(name)) is None:
        raise FedsimError(f"{where}: {name} is no file of yours and of no installed package; give ./FILE.py:NAME")
    function: Callable[..., Any] = load_installed(point, where)
    if not callable(function):
        raise FedsimError(f"{where}: {point.value} of an installed package is not {what}; ask its author")
    return function


def load_installed(point: EntryPoint, where: str) -> Any:
    """Return what an entry point names, its module imported.

    Raises
    ------
    FedsimError
        If it cannot be imported; the line begins with `where`.
    """
    try:
        return point.load()
    except Exception as error:
        reason = reason_of(error)
        raise FedsimError(f"{where}: {point.value} of an installed package cannot be loaded ({reason})") from error
