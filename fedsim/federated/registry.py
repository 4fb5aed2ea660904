"""Find methods by name without importing them: listing the files of `strategies/` reads them, but does not run them."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedsim.config.strategy import StrategyConfig
from fedsim.errors import FedsimError, nearest
from fedsim.installed import described, installed, load_installed
from fedsim.plugins import plugin_of, register, registered

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsim.config.run import RunConfig
    from fedsim.data.federation import FederatedData
    from fedsim.federated.client import Client
    from fedsim.federated.server import Server


T = TypeVar("T")


@dataclass(frozen=True)
class Strategy:
    """One federated method: its options, its two halves, and the defaults of a run that it changes."""

    name: str
    config: type[StrategyConfig]
    client: type[Client]
    server: Callable[..., Server]
    run_defaults: dict[str, object]
    prepare: Callable[[RunConfig, FederatedData], FederatedData] | None
    shows: tuple[str, ...] = ()
    """The method's most important metrics, in order."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Descriptions of its own metrics and heads, by name; each is a part of a sentence."""


_strategies: dict[str, Strategy] = {}


def strategy(
    name: str,
    config: type[StrategyConfig],
    client: type[Client],
    server: Callable[..., Server],
    *,
    run_defaults: dict[str, object] | None = None,
    prepare: Callable[[RunConfig, FederatedData], FederatedData] | None = None,
    summary: str = "",
    shows: tuple[str, ...] = (),
    metrics: Mapping[str, str] | None = None,
) -> None:
    """Register a federated method; call this at the top level of the method's file, with a literal `name`.

    Parameters
    ----------
    name
        Name of the method.
    config, client, server
        The options, the client half and the server half of the method.
    run_defaults
        Defaults of the run configuration that differ for this method, by dotted key.
    prepare
        Converts the federated data before the first round; a run uses only the result.
    summary
        Description for lists, a literal; by default the first line of the file's docstring.
    shows
        The metrics that a run shows first at its end, such as "clients/accuracy".
    metrics
        Descriptions of the method's own metrics and heads, by name; each is a part of a sentence.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    made = Strategy(name, config, client, server, run_defaults or {}, prepare, shows, metrics or {})
    register(_strategies, name, made, config.__module__, "strategy")


@dataclass(frozen=True)
class Declaration:
    """The declaration of a method in a file of a package."""

    module: str
    summary: str
    """One-line description."""
    call: ast.Call
    """The declaring call, with unevaluated arguments."""


@cache
def declared(package: str, marker: str) -> dict[str, Declaration]:
    """Return the methods of a package by name, read from its source.

    A call `marker("name", ...)` at the top level of a file declares a method, or such a decorator of a function there.

    Raises
    ------
    ValueError
        If two methods have one name.
    """
    found: dict[str, Declaration] = {}
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            docstring = text.removeprefix('"""').split("\n")[0].removesuffix('"""')
            for call in _marked_calls(text, marker):
                name = str(ast.literal_eval(call.args[0]))
                if name in found:
                    raise ValueError(f"{name!r} is declared in {found[name].module} and in {package}.{path.stem}")
                own = [str(ast.literal_eval(k.value)) for k in call.keywords if k.arg == "summary"]
                found[name] = Declaration(f"{package}.{path.stem}", own[0] if own else docstring, call)
    return found


def _marked_calls(text: str, marker: str) -> Iterator[ast.Call]:
    """Yield the calls of `marker` at the top level of a file; only their lines are parsed, which is quick."""
    for begin in re.finditer(rf"^@?(?={marker}\()", text, re.MULTILINE):
        lines = text[begin.end() :].splitlines(keepends=True)
        for end in range(1, len(lines) + 1):
            with contextlib.suppress(SyntaxError):  # the call goes on in the next line
                call = ast.parse("".join(lines[:end]), mode="eval").body
                if isinstance(call, ast.Call) and call.args:
                    yield call
                break


def describe(package: str) -> dict[str, tuple[str, str]]:
    """Return {strategy name: (module, one-line description)} for a package of strategies, read from its source."""
    ours = {name: (method.module, method.summary) for name, method in declared(package, "strategy").items()}
    return ours | {name: (package, line) for name, line in described("strategies", ours).items()}


def load_strategy(name: str) -> Strategy:
    """Return the federated method called `name`; only its file is imported.

    Raises
    ------
    FedsimError
        If there is no such method.
    """
    if name in _strategies:  # registered by a file read before, or by other code
        return _strategies[name]
    known = declared("strategies", "strategy")
    if (plugin := plugin_of(name)) is not None:
        return registered(_strategies, plugin, "strategy.name", "a strategy", known)
    if (brought := installed("strategies", known).get(name)) is not None:
        load_installed(brought, "strategy.name")
        return brought_by(_strategies, name, brought.value, "strategy.name")
    return imported(_strategies, known, name, f"strategy.name: unknown strategy {name!r}")


def brought_by(registry: Mapping[str, T], name: str, module: str, where: str) -> T:
    """Return the method that a module of an installed package has registered.

    Raises
    ------
    FedsimError
        If it has registered no method with that name.
    """
    if name not in registry:
        raise FedsimError(f"{where}: {module} of an installed package registers no {name!r}; ask its author")
    return registry[name]


def imported(registry: Mapping[str, T], known: Mapping[str, Declaration], name: str, unknown: str) -> T:
    """Return the method that a package declares under `name`; only its file is imported.

    Raises
    ------
    FedsimError
        If there is no such method; the message begins with `unknown`.
    """
    if name not in known:
        raise FedsimError(f"{unknown}; {nearest(name, known)}")
    importlib.import_module(known[name].module)
    return registry[name]
