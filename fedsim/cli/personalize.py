"""`fedsim personalize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedsim.cli.app import Interrupted, app

if TYPE_CHECKING:
    from rich.table import Table

    from fedsim.runs.personalize import Personal


@app.command("personalize")
def personalize_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    clients: Annotated[
        str | None, typer.Option(help="Clients of the run, such as 90-99,3; by default the unseen ones, else all.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="New clients instead: npz:FILE or csv:FILE.")] = None,
    adapt_steps: Annotated[
        int, typer.Option(min=0, help="Local steps of a client's own part, or of the whole model if it has none.")
    ] = 0,
    no_privacy: Annotated[
        bool, typer.Option("--no-privacy", help="Allow adaptation to samples that the run promises to hide.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the models; by default RUN/personal.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the models' folder.")] = False,
) -> None:
    """Give clients their own models from the finished run in the folder RUN, and measure each model."""
    from fedsim.runs.personalize import personal_ledger, personalize, write_personal

    try:
        made = personalize(run, clients, dataset=dataset, adapt_steps=adapt_steps, no_privacy=no_privacy)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    folder = out or run / "personal"
    write_personal(folder, made, personal_ledger(run, made))
    console = Console(soft_wrap=True)
    if not quiet:
        Console().print(_table(made))
        if untrained := sum(one.untrained for one in made):
            console.print(
                f"{untrained} of {len(made)} predict with a part of their own that was never trained; "
                "give --adapt-steps", highlight=False,
            )  # fmt: skip
    console.print(str(folder) if quiet else f"Models: {folder}", highlight=False, markup=False)


def _table(made: list[Personal]) -> Table:
    from rich.table import Table

    from fedsim.report.wording import ABSENT, format_metric

    columns = {"accuracy_unmasked": "Accuracy", "accuracy_masked": "own classes only", "mse": "MSE"}
    columns = {name: title for name, title in columns.items() if any(name in one.metrics for one in made)}
    table = Table(box=None)
    for title in ("Client", "Group", "Samples", "Tests", *columns.values(), "kB", "Seconds"):
        table.add_column(title, justify="left" if title == "Group" else "right")
    for one in made:
        known = [format_metric(n, one.metrics[n]) if n in one.metrics else ABSENT for n in columns]
        tests = int(one.metrics.get("num-examples", 0))
        cells = [f"{one.samples}", f"{tests}", *known, f"{one.bytes / 1e3:,.1f}", f"{one.seconds:.2f}"]
        table.add_row(f"{one.client} {one.name}".strip(), one.error or one.group, *cells)
    if len(made) > 1:
        means = [_mean([one.metrics[n] for one in made if n in one.metrics], n) for n in columns]
        table.add_row("mean", f"of {len(made)}", "", "", *means, "", f"{sum(one.seconds for one in made):.2f}")
    return table


def _mean(values: list[float], name: str) -> str:
    from fedsim.report.wording import ABSENT, format_metric

    return format_metric(name, sum(values) / len(values)) if values else ABSENT
