"""The command line. Every command takes or makes run folders; bad input is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import click
import typer
from rich.console import Console
from rich.table import Table

from fedsim import __version__
from fedsim.errors import FedsimError, nearest

app = typer.Typer(
    name="fedsim",
    help="Train federations with published methods, and make their models forget; both leave evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LISTS = ("strategies", "datasets", "models", "partitions", "presets")


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"fedsim {__version__}")  # noqa: T201  # the version, for scripts
        raise typer.Exit


@app.command("run")
def run_command(
    config: Annotated[str | None, typer.Option(help="A preset's name or a YAML file.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Federated method; see: fedsim list strategies.")] = None,
    clients: Annotated[int | None, typer.Option(help="Registered clients.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Clients per round: a number, or a share such as 30%.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, or npz:PATH; see: fedsim list datasets.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of named data sets; else $FEDSIM_DATA.")] = None,
    partition: Annotated[str | None, typer.Option(help="How data is split; see: fedsim list partitions.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; see: fedsim list models.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, inprocess or ray.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Serve Ray's dashboard on 127.0.0.1.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that holds run folders.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any option: key.path=value. Repeatable.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run from its last checkpoint.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run of the same name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Train a federation. Offline and without options: FedAvg on the embedded digits."""
    flags: dict[str, Any] = {
        "strategy.name": strategy,
        "clients": clients,
        "cohort": int(cohort) if cohort and cohort.isdigit() else cohort,
        "rounds": rounds,
        "data.name": dataset,
        "data.root": None if data_root is None else str(data_root),
        "data.partition.name": partition,
        "model.name": model,
        "seed": seed,
        "engine.name": engine,
        "engine.ray_address": ray_address,
        "engine.dashboard": dashboard or None,
        "name": name,
        "out": None if out is None else str(out),
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    from fedsim.config import find_config, parse_override

    console = Console(soft_wrap=True)
    if resume is not None:
        if given := [*flags, *([] if config is None else ["config"]), *(sets or [])]:
            raise FedsimError(f"--resume: the run keeps its own configuration, so {given[0]} cannot be given with it")
        from fedsim import runner
        from fedsim.progress import progress_for

        result = runner.resume(resume, progress_for(console, quiet))
    else:
        layers = [find_config(config)] if config else []
        overrides = dict(map(parse_override, sets or []))
        from fedsim import runner
        from fedsim.progress import progress_for

        result = runner.run_layers([*layers, flags, overrides], force=force, progress=progress_for(console, quiet))
    if quiet:
        console.print(str(result.folder), highlight=False)
    else:
        from fedsim.report.run_folder import RunFolder
        from fedsim.report.show import render_summary

        console.print(render_summary(RunFolder.open(result.folder)))


@app.command("list")
def list_command(
    what: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(_LISTS)}. All by default.")] = None,
) -> None:
    """List strategies, datasets, models, partitions and presets."""
    if what is not None and what not in _LISTS:
        raise FedsimError(f"list {what}: no such list; {nearest(what, _LISTS)}")
    from fedsim.config import preset_names
    from fedsim.data.config import available_datasets, partition_names
    from fedsim.models.config import available_models
    from fedsim.registry import describe

    rows = {
        "strategies": lambda: {name: summary for name, (_, summary) in describe("strategies").items()},
        "datasets": available_datasets,
        "models": available_models,
        "partitions": partition_names,
        "presets": preset_names,
    }
    console = Console()
    for kind in [what] if what else _LISTS:
        table = Table(title=None if what else kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        for name, description in sorted(rows[kind]().items()):
            table.add_row(name, description)
        console.print(table)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show what a run did."""
    from fedsim.report.run_folder import RunFolder
    from fedsim.report.show import render_summary

    Console().print(render_summary(RunFolder.open(run)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html in the first run.")] = None,
) -> None:
    """Write one HTML report of one run, or of several side by side."""
    from fedsim.report.html import write_report
    from fedsim.report.run_folder import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    path = write_report(folders, out or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")))
    Console(soft_wrap=True).print(str(path), highlight=False)


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        code = app(standalone_mode=False)
    except FedsimError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    sys.stderr.write(f"error: {line}\n")
    sys.exit(code)
