"""`fedsim unlearn`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.names import complete_methods
from fedsim.cli.screen import Screen


@app.command("unlearn")
def unlearn_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, or of an earlier unlearning.")],
    forget: Annotated[
        str,
        typer.Option(
            help="client=7, clients=7,9, class=3, identity=12, indices=FILE or random=0.01; several joined with +."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="Names joined with commas, or all; see: fedsim list unlearning.", autocompletion=complete_methods
        ),
    ],
    then: Annotated[list[str] | None, typer.Option(help="The next request to forget. Repeatable.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="retrain: also compare with a model trained from scratch.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Repetitions, each with its own original and retrained model; 3 with --compare, else 1."),
    ] = None,
    models: Annotated[
        int | None, typer.Option(help="Original and retrained models for KLOM and U-LiRA; give 64 or more.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder under RUN/unlearned.")] = None,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Delete the data from RUN for good, with a receipt; the result replaces RUN."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --purge: list what it would destroy, and stop.")
    ] = False,
    sign: Annotated[Path | None, typer.Option(help="Ed25519 private key in PEM that signs the receipt.")] = None,
    no_privacy: Annotated[
        bool,
        typer.Option("--no-privacy", help="Allow methods that end the run's privacy guarantee."),
    ] = False,
    data_root: Annotated[Path | None, typer.Option(help="New folder of the run's data, if it was moved.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="METHOD.option=value. Repeatable.")] = None,
    tune: Annotated[
        list[str] | None, typer.Option("--tune", help="Search for good options of this method first. Repeatable.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Your own function that measures every model: ./FILE.py:NAME.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run files of your own that are in a run folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a result of the same name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Make the finished run in the folder RUN forget data, and compare the result with a model that never saw it."""
    from fedsim.config.resolve import parse_override

    overrides = dict(map(parse_override, sets or []))
    if data_root is not None:
        overrides["data.root"] = str(data_root)
    methods = [word for part in method.split(",") if (word := part.strip())]
    console = Screen(soft_wrap=True)
    from fedsim.plugins import trusting
    from fedsim.runs.progress import progress_for
    from unlearning.pipeline.runner import unlearn
    from unlearning.pipeline.table import render_comparison

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False)

    if dry_run:
        from unlearning.pipeline.deletion import planned

        for gone in planned(run, [forget, *(then or [])]):
            say(f"{gone.path}  ({gone.bytes:,} bytes): {gone.what}")
        return
    with trusting(trust):
        outcome = unlearn(
            run, methods, forget, then=then or [], compare=compare, seeds=seeds, models=models, name=name, purge=purge,
            sign=sign, command=shlex.join(["fedsim", *sys.argv[1:]]), no_privacy=no_privacy, tune=tune or (),
            metrics=metric or (), overrides=overrides, force=force, progress=progress_for(console, quiet), say=say,
        )  # fmt: skip
    if quiet:
        console.print(str(outcome.folder), highlight=False, markup=False)
    else:
        Screen().print("", render_comparison(outcome.comparison, outcome.folder))
