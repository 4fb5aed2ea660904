"""Parts that installed packages bring, by entry points: listed beside ours, and imported when they are asked for.

A package declares, in its pyproject.toml, a module that registers a method (`fedsim.strategies`, `fedsim.unlearning`),
a class of networks (`fedsim.models`), or a function that returns a data set (`fedsim.datasets`):

    [project.entry-points."fedsim.strategies"]
    entropy = "my_package.entropy"
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from fedsim.errors import FedsimError, reason_of

Kind = Literal["strategies", "unlearning", "models", "datasets"]


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
