"""`fedsim evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.names import complete_datasets
from fedsim.cli.screen import Screen, print_rows
from fedsim.errors import FedsimError, nearest


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="The folder of a run, an unlearning or a pruning, or a file.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set, as in fedsim run; by default the run's.", autocompletion=complete_datasets),
    ] = None,
    part: Annotated[str | None, typer.Option(help="test, train or all; by default all for a file, else test.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of named data sets; else $FEDSIM_DATA.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="data.key=value. Repeatable.")] = None,
) -> None:
    """Measure the model in MODEL, a folder or an exported .safetensors file, on a data set."""
    from fedsim.config.resolve import allow_named, parse_override
    from fedsim.report.glossary import meaning
    from fedsim.report.wording import format_metric
    from fedsim.runs.evaluate import PARTS, evaluate

    if part is not None and part not in PARTS:
        raise FedsimError(f"--part {part}: no such part; {nearest(part, PARTS)}")
    overrides = dict(map(parse_override, sets or []))
    if data_root is not None:
        overrides["data.root"] = str(data_root)
    allow_named({"data.name": dataset})
    done = evaluate(model, dataset, part=part, overrides=overrides)
    screen = Screen(highlight=False, markup=False, soft_wrap=True)
    screen.print(f"{done.samples:,} samples of {done.dataset}\n")
    said = {name: meaning(name) for name in done.metrics}
    rows = [(said[name].title, format_metric(name, value), said[name].sentence) for name, value in done.metrics.items()]
    print_rows(screen, ("metric", "value", "what it is"), rows)
    if len(done.per_class):
        names = done.class_names or [str(c) for c in range(len(done.per_class))]
        told = [
            f"{name}: {100 * one:.0f} %" for name, one in zip(names, done.per_class, strict=True) if not math.isnan(one)
        ]
        screen.print("\nPer class  " + "  ".join(told))
