"""The Typer application to which commands add themselves, and the exit code of an interrupt."""

from __future__ import annotations

import os
from typing import Annotated, Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import click
import typer
from typer.core import TyperGroup

from fedsim.errors import FedsimError, RunFailed, nearest
from fedsim.version import VERSION

typer.core.HAS_RICH = False  # with rich, help texts print "\\[required]"; tables and bars use rich directly


class Interrupted(RunFailed):
    """Ctrl-C during a command: exit code 130."""

    exit_code = 130


class _Commands(TyperGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:  # its message says how to resume, and typer would drop it
            raise Interrupted(str(interrupt) or "interrupted") from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            raise FedsimError(f"fedsim {cmd_name}: no such command; {nearest(cmd_name, self.commands)}")
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="fedsim",
    cls=_Commands,
    help="Train federations with published methods, and make their models forget data. Both commands write evidence.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"fedsim {VERSION}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
