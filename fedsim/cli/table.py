"""`fedsim table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError, nearest


@app.command("table")
def table_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders.")],
    format: Annotated[str | None, typer.Option(help="md, latex or csv; by default a table for the terminal.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric, such as global/accuracy. Repeatable.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Group rows by this option. Repeatable.")] = None,
    target: Annotated[
        float | None, typer.Option(help="Also show the cost of reaching this value of the first metric.")
    ] = None,
) -> None:
    """Print a table of RUNS: mean and deviation over seeds. The best and those not significantly worse are bold."""
    from fedsim.report.groups import grouped, open_runs
    from fedsim.report.table import FORMATS, columns_of, render_table

    if format is not None and format not in FORMATS:
        raise FedsimError(f"--format {format}: no such format; {nearest(format, FORMATS)}")
    opened = open_runs(runs)
    for folder in opened:
        if "unlearn" in folder.config:
            raise FedsimError(f"{folder.path}: is the result of an unlearning; for its table, use fedsim show")
    groups = grouped(opened, by or [])
    columns = columns_of(groups, metric or [], target)
    if format is None:
        Screen().print(render_table(groups, columns))
    else:
        typer.echo(FORMATS[format](groups, columns), nl=False)
