"""`fedsim show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    everything: Annotated[bool, typer.Option("--all", help="Show all metrics, not only the main ones.")] = False,
) -> None:
    """Show the results of the run in the folder RUN, and where its files are."""
    from fedsim.report.show import render_summary
    from fedsim.runs.folder import RunFolder

    folder = RunFolder.open(run)
    if "unlearn" in folder.config:
        from unlearning.pipeline.comparison import read_comparison
        from unlearning.pipeline.table import render_comparison

        Screen().print(render_comparison(read_comparison(run), run))
    else:
        Screen().print(render_summary(folder, everything))
