"""`fedsim prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError, nearest

_DATA = ("train", "synthetic", "none")


@app.command("prune")
def prune_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    target: Annotated[str, typer.Option(help="flops=0.5, params=0.5 or keep=0.9.")] = "flops=0.5",
    method: Annotated[str, typer.Option(help="See: fedsim list pruning.")] = "modhifi_p",
    data: Annotated[
        str, typer.Option(help="train: sums from clients; synthetic: noise on the server; or none.")
    ] = "train",
    samples: Annotated[int, typer.Option(min=2, help="Number of samples to use, at most.")] = 2000,
    cuts: Annotated[int, typer.Option(min=1, help="Steps in which the target is reached.")] = 3,
    compensate: Annotated[bool, typer.Option(help="Rescale the kept weights to make up for removed ones.")] = True,
    batch_norm: Annotated[bool, typer.Option(help="Re-estimate running means and variances.")] = True,
    fine_tune_rounds: Annotated[int, typer.Option(min=0, help="Rounds of training after pruning.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the folder under RUN/pruned.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="METHOD.option=value. Repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder of the same name.")] = False,
    no_privacy: Annotated[
        bool, typer.Option("--no-privacy", help="Allow a result that ends the run's privacy guarantee.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Make the model of the finished run in the folder RUN smaller, and measure the loss and the savings."""
    if data not in _DATA:
        raise FedsimError(f"--data {data}: no such source of samples; {nearest(data, _DATA)}")
    from fedsim.config.resolve import parse_override
    from fedsim.runs.progress import progress_for
    from unlearning.parts.cutting import Corrections
    from unlearning.pipeline.prune import prune
    from unlearning.pipeline.prune_plot import render_pruning

    console = Screen(soft_wrap=True)
    pruned = prune(
        run, method, target, data=data, samples=samples, how=Corrections(compensate, batch_norm, cuts),  # type: ignore[arg-type]
        fine_tune_rounds=fine_tune_rounds, name=name, overrides=dict(map(parse_override, sets or [])),
        force=force, no_privacy=no_privacy, progress=progress_for(console, quiet),
    )  # fmt: skip
    if quiet:
        console.print(str(pruned.folder), highlight=False, markup=False)
    else:
        Screen().print(render_pruning(pruned.record, pruned.folder), highlight=False)
