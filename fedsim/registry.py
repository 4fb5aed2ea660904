"""Finds methods by name without importing them: to list a file of `strategies/`, it is read, not run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import FedsimError, nearest
from fedsim.schema import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsim.client import Client
    from fedsim.server import Server


class StrategyConfig(Config):
    """Options of one federated method; each method adds its own."""

    name: str


@dataclass(frozen=True)
class Strategy:
    """One federated method: its options, its two halves, and what a run of it changes in the defaults."""

    name: str
    config: type[StrategyConfig]
    client: type[Client]
    server: Callable[..., Server]
    run_defaults: dict[str, object]


_strategies: dict[str, Strategy] = {}


def strategy(
    name: str,
    config: type[StrategyConfig],
    client: type[Client],
    server: Callable[..., Server],
    *,
    run_defaults: dict[str, object] | None = None,
    summary: str = "",
) -> None:
    """Register a federated method under `name`; called at the top level of its file, the name a literal string.

    `run_defaults` maps dotted keys of the run configuration to the values this method's runs start from. `summary`
    (a literal too) describes it in lists; by default that is the first line of the file's docstring.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if name in _strategies:
        raise ValueError(f"strategy {name!r} is registered twice")
    _strategies[name] = Strategy(name, config, client, server, run_defaults or {})


@cache
def describe(package: str) -> dict[str, tuple[str, str]]:
    """Return {method name: (module, one-line description)} of a package of methods, read from its source.

    A method is a top-level call `strategy("name", ...)`.
    """
    found: dict[str, tuple[str, str]] = {}
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            summary = (ast.get_docstring(tree) or "").split("\n")[0]
            for node in tree.body:
                call = node.value if isinstance(node, ast.Expr) else None
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Name)
                    and call.func.id == "strategy"
                    and isinstance(call.args[0], ast.Constant)
                ):
                    own = [
                        k.value.value for k in call.keywords if k.arg == "summary" and isinstance(k.value, ast.Constant)
                    ]
                    found[str(call.args[0].value)] = (f"{package}.{path.stem}", str(own[0]) if own else summary)
    return found


def load_strategy(name: str) -> Strategy:
    """Return the federated method called `name`, importing its file only.

    Raises
    ------
    FedsimError
        If there is no such method.
    """
    known = describe("strategies")
    if name not in known:
        raise FedsimError(f"strategy.name: unknown strategy {name!r}; {nearest(name, known)}")
    importlib.import_module(known[name][0])
    return _strategies[name]
