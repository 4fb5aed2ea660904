"""`fedsim run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsim.cli.app import app
from fedsim.cli.names import (
    complete_datasets,
    complete_models,
    complete_partitions,
    complete_presets,
    complete_strategies,
)
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.runs.progress import Progress
    from fedsim.runs.result import RunResult


@app.command("run")
def run_command(
    config: Annotated[
        str | None, typer.Option(help="A preset's name or a YAML file.", autocompletion=complete_presets)
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="Federated method; see: fedsim list strategies.", autocompletion=complete_strategies),
    ] = None,
    clients: Annotated[int | None, typer.Option(help="Registered clients.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Clients per round: a number, or a share such as 30%.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set, or npz:, csv:, folder:PATH; see: fedsim list.", autocompletion=complete_datasets),
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of named data sets; else $FEDSIM_DATA.")] = None,
    partition: Annotated[
        str | None,
        typer.Option(help="How data is split; see: fedsim list partitions.", autocompletion=complete_partitions),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model; see: fedsim list models.", autocompletion=complete_models)
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric of your own, ./FILE.py:NAME. Repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, inprocess, local, ray, or a file of your own.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Serve Ray's dashboard on 127.0.0.1.")] = False,
    log: Annotated[str | None, typer.Option(help="Trackers: tensorboard, wandb, mlflow, joined with commas.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that holds run folders.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any option: key.path=value. Repeatable.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run; --rounds sets a larger total.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run files of your own that are in a run folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run of the same name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan of the run, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the result's folder.")] = False,
) -> None:
    """Train a federation. Without options: FedAvg on the embedded digits, offline."""
    flags: dict[str, Any] = {
        "strategy.name": strategy,
        "clients": clients,
        "cohort": cohort,
        "rounds": rounds,
        "data.name": dataset,
        "data.root": None if data_root is None else str(data_root),
        "data.partition.name": partition,
        "model.name": model,
        "metrics": metric,
        "seed": seed,
        "engine.name": engine,
        "engine.ray_address": ray_address,
        "engine.dashboard": dashboard or None,
        "log": None if log is None else [one.strip() for one in log.split(",")],
        "name": name,
        "out": None if out is None else str(out),
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    from fedsim.config.resolve import allow_named, find_config, parse_override
    from fedsim.plugins import trusting

    overrides = dict(map(parse_override, sets or []))
    with trusting(trust):
        allow_named(flags)
        allow_named(overrides)
    machine = _machine_settings({**flags, **overrides}) if resume is not None else {}
    if resume is not None:
        _require_no_more(
            resume, {"--config": config, "--force": force, "--dry-run": dry_run, **flags, **overrides}, machine
        )
    layers = [find_config(config)] if config else []
    if dry_run:
        from fedsim.report.plan import render_plan
        from fedsim.runs.plan import plan

        return Screen().print(render_plan(plan(*layers, flags, overrides)))
    console = Screen(soft_wrap=True)
    from fedsim.runs import runner
    from fedsim.runs.progress import progress_for

    progress = progress_for(console, quiet)
    if resume is not None:
        result = _resumed(resume, rounds, progress, machine)
    else:
        like = Path(config) if config and (Path(config) / "config.yaml").is_file() else None
        result = runner.run_layers([*layers, flags, overrides], force=force, progress=progress, like=like)
    _show(result, quiet)


def _machine_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a resumed run accepts: those of this machine and the engine, and the data's location."""
    from fedsim.config.machine import CHOSEN_ANEW

    ours = {key: value for key, value in given.items() if key in CHOSEN_ANEW and key != "out"}
    return ours | {key: value for key, value in given.items() if key == "data.root"}


def _require_no_more(resume: Path, given: Mapping[str, Any], machine: Mapping[str, Any]) -> None:
    """Refuse options that a resumed run does not accept."""
    taken = {*machine, "rounds"}
    useless = [key for key, value in given.items() if value not in (None, False) and key not in taken]
    if useless:
        kept = resume / "config.yaml"
        raise FedsimError(f"--resume: the run keeps the configuration in {kept}; leave out {useless[0]}")


def _show(result: RunResult, quiet: bool) -> None:
    """Print the summary of a run, or only its folder."""
    if quiet:
        return Screen(soft_wrap=True).print(str(result.folder), highlight=False, markup=False)
    from fedsim.report.show import render_summary
    from fedsim.runs.folder import RunFolder

    Screen().print(render_summary(RunFolder.open(result.folder)))


def _resumed(folder: Path, rounds: int | None, progress: Progress, machine: dict[str, Any]) -> RunResult:
    """Resume a run, or the training that follows an unlearning."""
    from fedsim.runs import runner
    from fedsim.runs.folder import RunFolder

    if "unlearn" in RunFolder.open(folder, anew=True).config:
        from unlearning.pipeline.continued import continue_outcome

        return continue_outcome(folder, rounds, progress, machine)
    return runner.resume(folder, progress, rounds, overrides=machine)
