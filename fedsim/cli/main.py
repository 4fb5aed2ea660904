"""The command line. Every command takes or makes run folders; bad input is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import click
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from fedsim import __version__
from fedsim.errors import FedsimError, RunFailed, nearest

typer.core.HAS_RICH = False  # with it, help texts say "\\[required]"; tables and bars are printed by rich itself


class _Commands(TyperGroup):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            raise FedsimError(f"fedsim {cmd_name}: no such command; {nearest(cmd_name, self.commands)}")
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="fedsim",
    cls=_Commands,
    help="Train federations with published methods, and make their models forget; both leave evidence.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LISTS = ("strategies", "datasets", "models", "partitions", "presets", "unlearning")


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"fedsim {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("run")
def run_command(
    config: Annotated[str | None, typer.Option(help="A preset's name or a YAML file.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Federated method; see: fedsim list strategies.")] = None,
    clients: Annotated[int | None, typer.Option(help="Registered clients.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Clients per round: a number, or a share such as 30%.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, or npz:PATH, csv:PATH; see: fedsim list.")] = None,
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
        "cohort": cohort,
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
    from fedsim.config.resolve import find_config, parse_override

    overrides = dict(map(parse_override, sets or []))
    given = {"--config": config, "--force": force, **flags, **overrides}
    if resume is not None and (useless := [key for key, value in given.items() if value not in (None, False)]):
        raise FedsimError(
            f"--resume: the run keeps the configuration in {resume / 'config.yaml'}; leave out {useless[0]}"
        )
    layers = [find_config(config)] if config else []

    console = Console(soft_wrap=True)
    from fedsim.runs import runner
    from fedsim.runs.progress import progress_for

    progress = progress_for(console, quiet)
    try:
        if resume is not None:
            result = runner.resume(resume, progress)
        else:
            result = runner.run_layers([*layers, flags, overrides], force=force, progress=progress)
    except KeyboardInterrupt as interrupt:
        raise _Interrupted(str(interrupt) or "interrupted") from None
    if quiet:
        console.print(str(result.folder), highlight=False, markup=False)
    else:
        from fedsim.report.show import render_summary
        from fedsim.runs.folder import RunFolder

        Console().print(render_summary(RunFolder.open(result.folder)))


class _Interrupted(RunFailed):
    exit_code = 130


@app.command("unlearn")
def unlearn_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    forget: Annotated[
        str,
        typer.Option(
            help="client=7, clients=7,9, class=3, identity=12, indices=FILE or random=0.01; several joined with +."
        ),
    ],
    method: Annotated[str, typer.Option(help="Names joined with commas, or all; see: fedsim list unlearning.")],
    compare: Annotated[str | None, typer.Option(help="retrain: the model to come near to, from scratch.")] = None,
    seeds: Annotated[int, typer.Option(help="Repetitions, each with its own original and oracle.")] = 1,
    name: Annotated[str | None, typer.Option(help="Name of the folder under RUN/unlearned.")] = None,
    purge: Annotated[bool, typer.Option("--purge", help="Then remove what these clients sent from history.")] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="METHOD.option=value. Repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an outcome of the same name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Make the finished run in the folder RUN forget, and measure how far that is from never having known."""
    from fedsim.config.resolve import parse_override

    overrides = dict(map(parse_override, sets or []))
    methods = [word for part in method.split(",") if (word := part.strip())]
    console = Console(soft_wrap=True)
    from fedsim.runs.progress import progress_for
    from unlearning.pipeline.runner import unlearn
    from unlearning.pipeline.table import render_comparison

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False)

    try:
        outcome = unlearn(
            run, methods, forget, compare=compare, seeds=seeds, name=name, purge=purge, overrides=overrides,
            force=force, progress=progress_for(console, quiet), say=say,
        )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        raise _Interrupted(str(interrupt) or "interrupted") from None
    if quiet:
        console.print(str(outcome.folder), highlight=False, markup=False)
    else:
        Console().print("", render_comparison(outcome.comparison, outcome.folder))


@app.command("list")
def list_command(
    what: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(_LISTS)}. All by default.")] = None,
) -> None:
    """List strategies, datasets, models, partitions, presets and unlearning methods, or only WHAT is named."""
    if what is not None and what not in _LISTS:
        raise FedsimError(f"list {what}: no such list; {nearest(what, _LISTS)}")
    from fedsim.config.resolve import preset_names
    from fedsim.data.config import available_datasets, partition_names
    from fedsim.federated.registry import describe
    from fedsim.models.config import available_models
    from unlearning.api.registry import RETRAIN, RETRAIN_SUMMARY, describe_unlearning

    rows: Mapping[str, Callable[[], Mapping[str, str]]] = {
        "strategies": lambda: {name: summary for name, (_, summary) in describe("strategies").items()},
        "datasets": available_datasets,
        "models": available_models,
        "partitions": partition_names,
        "presets": preset_names,
        "unlearning": lambda: {RETRAIN: RETRAIN_SUMMARY, **describe_unlearning()},
    }
    console = Console(highlight=False, markup=False)
    for number, kind in enumerate([what] if what else _LISTS):
        if not what:
            console.print(f"\n{kind}" if number else kind, style="bold")
        _print_names(console, rows[kind]())


def _print_names(console: Console, names: Mapping[str, str]) -> None:
    """Print a table on a terminal, and elsewhere, for grep, one line per name."""
    width = max(map(len, names), default=0)
    table = Table.grid(padding=(0, 2))
    for name, description in sorted(names.items()):
        table.add_row(name, description)
        if not console.is_terminal:
            console.print(f"{name.ljust(width)}  {description}", soft_wrap=True)
    if console.is_terminal:
        console.print(table)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show what the run in the folder RUN did, and where its files are."""
    from fedsim.report.show import render_summary
    from fedsim.runs.folder import RunFolder

    folder = RunFolder.open(run)
    if "unlearn" in folder.config:
        from unlearning.pipeline.comparison import read_comparison
        from unlearning.pipeline.table import render_comparison

        Console().print(render_comparison(read_comparison(run), run))
    else:
        Console().print(render_summary(folder))


@app.command("privacy")
def privacy_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    audit: Annotated[bool, typer.Option("--audit", help="Attack its mechanism with canaries, at small scale.")] = False,
) -> None:
    """Print the epsilon and delta that the run in the folder RUN has come to, and what they do not cover."""
    from fedsim.privacy.ledger import Ledger
    from fedsim.privacy.show import render_ledger
    from fedsim.runs.folder import RunFolder

    folder = RunFolder.open(run)
    ledger = Ledger.read(folder.path)
    console = Console(soft_wrap=True)
    console.print(render_ledger(ledger))
    if audit:
        from fedsim.config.resolve import resolve
        from fedsim.privacy.show import render_audits
        from fedsim.runs.privacy_audit import audit_run

        console.print(render_audits(audit_run(resolve(folder.config), ledger)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html in the first run.")] = None,
) -> None:
    """Write one HTML report of the run folders RUNS: of one, or of several side by side."""
    from fedsim.report.html import write_report
    from fedsim.runs.folder import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    for folder in folders:
        if "unlearn" in folder.config:
            raise FedsimError(f"{folder.path}: is the result of an unlearning; its report is there: report.html")
    path = write_report(folders, out or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html")))
    Console(soft_wrap=True).print(str(path), highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default this process's, and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        code = app(arguments, prog_name="fedsim", standalone_mode=False)
    except FedsimError as error:
        _fail(str(error), error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "fedsim"
        _fail(f"{error.format_message().rstrip('.')}; see: {command} --help", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    if code == 130:  # what typer makes of Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    sys.stderr.write(f"error: {line}\n")
    sys.exit(code)
