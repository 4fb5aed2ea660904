"""Parts from installed packages, found by entry points: they are listed beside ours, and imported when they are used.

A package declares them in its pyproject.toml. `fedsim.strategies` and `fedsim.unlearning` name a module that registers
a method. `fedsim.models` names a class of networks. The others name a function: it returns a data set
(`fedsim.datasets`), partitions one (`fedsim.partitions`), measures a model (`fedsim.metrics`), or measures what a model
has forgotten (`fedsim.forgetting_metrics`).

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
    """Return the entry points of a kind, {name: entry point}. Names in `ours` are left out, with one note."""
    found = _brought(kind, tuple(sys.path))
    for name in sorted(found.keys() & set(ours)):
        _tell_clash(kind, name, str(found[name].value))
    return {name: point for name, point in found.items() if name not in ours}


@functools.cache
def _brought(kind: Kind, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Return all entry points of a kind. Searching all packages is slow, so the result is cached per search path."""
    return {point.name: point for point in entry_points(group=f"fedsim.{kind}")}


@functools.cache
def _tell_clash(kind: str, name: str, value: str) -> None:
    sys.stderr.write(f"note: {value} brings {name!r} of fedsim.{kind}, a name that fedsim itself uses; it is ignored\n")


def described(kind: Kind, ours: Collection[str]) -> dict[str, str]:
    """Return one line per name: the package that it comes from."""
    lines = {}
    for name, point in installed(kind, ours).items():
        package = point.dist
        lines[name] = f"of the package {package.name} {package.version}" if package else f"of {point.value}"
    return lines


def own_or_installed(name: str, kind: Kind, where: str, what: str) -> Callable[..., Any]:
    """Return the function for a name such as `./mine.py:name`, or for a name from an installed package.

    Raises
    ------
    FedsimError
        If there is none; the message begins with `where`.
    """
    if (plugin := plugin_of(name)) is not None:
        return own_function(plugin, where, what)
    if (point := installed(kind, ()).get(name)) is None:
        raise FedsimError(f"{where}: {name} is no file of yours and in no installed package; give ./FILE.py:NAME")
    function: Callable[..., Any] = load_installed(point, where)
    if not callable(function):
        raise FedsimError(f"{where}: {point.value} of an installed package is not {what}; ask its author")
    return function


def load_installed(point: EntryPoint, where: str) -> Any:
    """Return the object that an entry point names; its module is imported.

    Raises
    ------
    FedsimError
        If it cannot be imported; the message begins with `where`.
    """
    try:
        return point.load()
    except Exception as error:
        reason = reason_of(error)
        raise FedsimError(f"{where}: {point.value} of an installed package cannot be loaded ({reason})") from error
