"""`fedsim undo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen


@app.command("undo")
def undo_command(
    run: Annotated[Path, typer.Argument(help="The result folder of a sequence of requests.")],
    request: Annotated[str, typer.Option(help="The request to undo, as it was given.")],
    compare: Annotated[
        str | None, typer.Option(help="retrain: also compare with a model trained from scratch.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new folder under RUN/unlearned.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a result of the same name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Undo one request of the sequence that led to RUN: subtract its change, and keep the other requests forgotten."""
    from fedsim.errors import FedsimError, nearest
    from fedsim.runs.progress import progress_for
    from unlearning.pipeline.table import render_comparison
    from unlearning.pipeline.undo import undo

    if compare not in (None, "retrain"):
        raise FedsimError(f"--compare {compare}: cannot be compared with; {nearest(compare or '', ['retrain'])}")
    console = Screen(soft_wrap=True)

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False)

    found = undo(
        run, request, name=name, compare=compare is not None, force=force,
        progress=progress_for(console, quiet), say=say,
    )  # fmt: skip
    if quiet:
        console.print(str(found.folder), highlight=False, markup=False)
    else:
        Screen().print("", render_comparison(found.comparison, found.folder))
