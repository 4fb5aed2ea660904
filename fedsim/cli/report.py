"""`fedsim report`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html in the first run.")] = None,
) -> None:
    """Write one HTML report of the run folders RUNS: of one, or of several side by side."""
    from fedsim.report.html import write_report
    from fedsim.runs.folder import RunFolder
    from fedsim.runs.reserve import held

    folders = [RunFolder.open(run) for run in runs]
    for folder in folders:
        if "unlearn" in folder.config:
            raise FedsimError(f"{folder.path}: is the result of an unlearning; its report is there: report.html")
    with contextlib.ExitStack() as stack:
        if out is None and len(runs) == 1:
            stack.enter_context(held(runs[0], shared=True))
        path = write_report(folders, out or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")))
    Screen(soft_wrap=True).print(str(path), highlight=False, markup=False)
