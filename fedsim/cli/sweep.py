"""`fedsim sweep`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.app import Interrupted, app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError, RunFailed

if TYPE_CHECKING:
    from rich.console import Console

    from fedsim.runs.search import Search
    from fedsim.runs.sweep import Best


_TRIALS, _MOST_TRIALS = 20, 10_000


@app.command("sweep")
def sweep_command(
    config: Annotated[str | None, typer.Argument(help="A preset's name or a YAML file.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, such as 0-4 or 0,2,7; by default 0-2, or 0 for a search.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any option: key.path=value, [a,b] to try each, lo..hi to search. Repeatable."),
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="Search for the best value of this metric: validation/accuracy.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials in a search; by default 20.")] = None,
    jobs: Annotated[
        str | None,
        typer.Option(help="Runs at the same time, by default one per core or GPU; ray: tasks on a cluster."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; by default one is started here.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder that holds the runs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder in which the sweep's folder is made.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the sweep's folder.")] = False,
) -> None:
    """Run every combination of the listed options of CONFIG for each seed, and compare them; or search with --tune.

    To continue a stopped sweep, give the same command again. More seeds or values are added to the earlier ones.
    """
    from fedsim.config.resolve import find_config, parse_override
    from fedsim.report.groups import grouped
    from fedsim.report.table import render_table
    from fedsim.runs.board import board_for
    from fedsim.runs.folder import RunFolder
    from fedsim.runs.grid import read_seeds
    from fedsim.runs.sweep import keep_best, plan, read_jobs, run_sweep

    packed = read_jobs(jobs, ray_address)
    overrides = dict(map(parse_override, sets or []))
    if out is not None:
        overrides["out"] = str(out)
    base = find_config(config) if config else {}
    named = name or (f"sweep-{Path(config).stem}" if config else "sweep")
    like = Path(config) if config and (Path(config) / "config.yaml").is_file() else None
    search = _search(tune, trials)
    sweep = plan(base, overrides, read_seeds(seeds or ("0" if search else "0-2")), named, like, search)
    console = Screen(soft_wrap=True)
    board = board_for(console, [cell.name for cell in sweep.cells], quiet)
    try:
        swept = run_sweep(sweep, packed, board, ray_address)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the same command continues {sweep.folder}") from None
    finally:
        board.close()
    if search is not None and swept.finished:
        best = keep_best(sweep, search)
        if not quiet:
            _show_search(console, best, search)
    elif swept.finished and not quiet:
        console.print()
        Screen().print(render_table(grouped([RunFolder.open(run) for run in swept.finished])))
    console.print(str(swept.folder), highlight=False, markup=False)
    if swept.failures:
        first, why = next(iter(swept.failures.items()))
        raise RunFailed(
            f"{len(swept.failures)} of {len(sweep.cells)} runs failed, the first {first}: {why.splitlines()[0]}; what "
            f"they printed is in {swept.logs}; the same command tries them again"
        )


def _search(metric: str | None, trials: int | None) -> Search | None:
    from fedsim.runs.search import Search

    if metric is None:
        if trials is not None:
            raise FedsimError("--trials: is for a search; add --tune validation/accuracy")
        return None
    if trials is not None and not 1 <= trials <= _MOST_TRIALS:
        raise FedsimError(f"--trials {trials}: must be from 1 to {_MOST_TRIALS:,}")
    return Search(metric, trials or _TRIALS)


def _show_search(console: Console, best: Best, search: Search) -> None:
    from fedsim.report.table import columns_of, render_table

    groups = best.found.groups
    console.print()
    Screen().print(render_table(groups, columns_of(groups, [search.metric])))
    lines = [
        f"best: {groups[0].label}, {search.metric} {best.found.value:.4g}",
        f"cost: {best.found.cost()}",
        f"to run it: fedsim run --config {shlex.quote(str(best.file))}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
