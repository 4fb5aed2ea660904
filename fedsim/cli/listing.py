"""`fedsim list`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from rich.table import Table

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError, nearest

_LISTS = ("strategies", "datasets", "models", "partitions", "presets", "unlearning", "pruning")


@app.command("list")
def list_command(
    what: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(_LISTS)}. All by default.")] = None,
) -> None:
    """List strategies, datasets, models, partitions, presets, unlearning and pruning methods, or only WHAT."""
    if what is not None and what not in _LISTS:
        raise FedsimError(f"list {what}: no such list; {nearest(what, _LISTS)}")
    from fedsim.config.resolve import preset_names
    from fedsim.data.config import available_datasets, partition_names
    from fedsim.data.partition_config import OWN, OwnPartition
    from fedsim.federated.registry import describe
    from fedsim.models.config import available_models
    from unlearning.api.pruner import describe_pruners
    from unlearning.api.registry import RETRAIN, RETRAIN_SUMMARY, describe_unlearning

    rows: Mapping[str, Callable[[], Mapping[str, str]]] = {
        "strategies": lambda: {name: summary for name, (_, summary) in describe("strategies").items()},
        "datasets": available_datasets,
        "models": available_models,
        "partitions": lambda: partition_names() | {OWN: OwnPartition.__doc__ or ""},
        "presets": preset_names,
        "pruning": describe_pruners,
        "unlearning": lambda: {RETRAIN: RETRAIN_SUMMARY, **describe_unlearning()},
    }
    console = Screen(highlight=False, markup=False)
    for number, kind in enumerate([what] if what else _LISTS):
        if not what:
            console.print(f"\n{kind}" if number else kind, style="bold")
        _print_names(console, rows[kind]())


def _print_names(console: Screen, names: Mapping[str, str]) -> None:
    """Print a table on a terminal; elsewhere print one line per name, for grep."""
    width = max(map(len, names), default=0)
    table = Table.grid(padding=(0, 2))
    for name, description in sorted(names.items()):
        table.add_row(name, description)
        if not console.is_terminal:
            console.print(f"{name.ljust(width)}  {description}", soft_wrap=True)
    if console.is_terminal:
        console.print(table)
