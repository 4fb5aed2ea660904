"""`fedsim init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.names import complete_strategies
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError


@app.command("init")
def init_command(
    file: Annotated[Path, typer.Argument(help="The YAML file to write.")],
    strategy: Annotated[
        str, typer.Option(help="Federated method; see: fedsim list strategies.", autocompletion=complete_strategies)
    ] = "fedavg",
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
) -> None:
    """Write a commented configuration with the most important options of a method to FILE."""
    from fedsim.atomic import write_atomically
    from fedsim.config.resolve import allow_named
    from fedsim.config.starter import starter

    if file.exists() and not force:
        raise FedsimError(f"{file}: exists already; choose another file, or replace it with --force")
    allow_named({"strategy.name": strategy})
    command = f"fedsim run --config {shlex.quote(str(file))}"
    try:
        write_atomically(file, starter(strategy, command).encode(), folders=True)
    except OSError as error:
        raise FedsimError(f"{file}: cannot be written ({error.strerror}); choose another place") from None
    Screen(soft_wrap=True).print(f"{file}; to run it: {command}", highlight=False, markup=False)
