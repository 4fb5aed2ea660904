"""`fedsim attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen


@app.command("attribute")
def attribute_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, or of an unlearning.")],
    of: Annotated[str, typer.Option(help="Test samples: test=0,5-9 or class=3.")],
    method: Annotated[str, typer.Option(help="trak (gradients) or datamodels (models of subsets).")] = "trak",
    unit: Annotated[str, typer.Option(help="sample or client.")] = "sample",
    models: Annotated[
        int | None, typer.Option(help="Checkpoints of trak, 5 by default; subset models, ten per client.")
    ] = None,
    lds: Annotated[int, typer.Option(help="Retrained models that score the attributions; give 50 or more.")] = 0,
    share: Annotated[float, typer.Option(help="Share of the units that a subset model keeps.")] = 0.9,
    dimension: Annotated[int, typer.Option(min=1, help="Dimension of trak's projections.")] = 512,
    name: Annotated[str | None, typer.Option(help="Name of the folder under RUN/attributions.")] = None,
    no_privacy: Annotated[
        bool, typer.Option("--no-privacy", help="Allow statements about samples that the run promises to hide.")
    ] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="engine.option=value. Repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder of the same name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Find the training samples, or clients, on which predictions of the run in the folder RUN depend."""
    from fedsim.config.machine import require_machine_settings
    from fedsim.config.resolve import parse_override
    from unlearning.pipeline.attribute import attribute
    from unlearning.pipeline.attribution import summary

    console = Screen(soft_wrap=True)

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False)

    machine = dict(map(parse_override, sets or []))
    require_machine_settings(machine, "--set of an attribution")
    folder, made = attribute(
        run, of, method, unit, models=models, judges=lds, share=share, dimension=dimension, name=name,  # type: ignore[arg-type]
        force=force, no_privacy=no_privacy, machine=machine, say=say,
    )  # fmt: skip
    for line in summary(made):
        say(line)
    console.print(str(folder) if quiet else f"Report: {folder / 'report.html'}", highlight=False, markup=False)
