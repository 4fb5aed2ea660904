"""`fedsim report`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError, nearest


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html in the first run.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="pdf or svg: also write the plots as files beside the report.")
    ] = None,
) -> None:
    """Write one HTML report of RUNS: one run, several runs side by side, or means over their seeds."""
    from fedsim.report.groups import open_runs
    from fedsim.report.html import write_report
    from fedsim.report.plots import write_figures
    from fedsim.runs.reserve import held
    from unlearning.pipeline.prune_plot import pruning_sections

    if figures not in (None, "pdf", "svg"):
        raise FedsimError(f"--figures {figures}: no such format; {nearest(figures, ('pdf', 'svg'))}")
    folders = open_runs(runs)
    for folder in folders:
        if "unlearn" in folder.config:
            raise FedsimError(f"{folder.path}: is the result of an unlearning; its report is there: report.html")
    with contextlib.ExitStack() as stack:
        if out is None and len(folders) == 1:
            stack.enter_context(held(folders[0].path, shared=True))
        one = folders[0].path / "report.html" if len(folders) == 1 else Path("comparison.html")
        path = write_report(folders, out or one, pruning_sections(folders))
        if figures is not None:
            write_figures(folders, path.parent / "plots" if len(folders) == 1 else path.with_suffix(""), figures)
    Screen(soft_wrap=True).print(str(path), highlight=False, markup=False)
