"""`fedsim sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import Interrupted, app
from fedsim.cli.screen import Screen
from fedsim.errors import RunFailed


@app.command("sweep")
def sweep_command(
    config: Annotated[str | None, typer.Argument(help="A preset's name or a YAML file.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds: 0-4, or 0,2,7.")] = "0-2",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Any option: key.path=value, or [a,b] to try each. Repeatable.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time; by default one for each core, or GPU.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder that holds the runs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that the sweep's folder is in.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the sweep's folder.")] = False,
) -> None:
    """Run every combination of the listed options of CONFIG for each seed, and compare them.

    Stopped or killed, the same command goes on; with more seeds or values, they join the others.
    """
    from fedsim.config.resolve import find_config, parse_override
    from fedsim.report.groups import grouped
    from fedsim.report.table import render_table
    from fedsim.runs.board import board_for
    from fedsim.runs.folder import RunFolder
    from fedsim.runs.grid import read_seeds
    from fedsim.runs.sweep import plan, run_sweep

    overrides = dict(map(parse_override, sets or []))
    if out is not None:
        overrides["out"] = str(out)
    base = find_config(config) if config else {}
    named = name or (f"sweep-{Path(config).stem}" if config else "sweep")
    like = Path(config) if config and (Path(config) / "config.yaml").is_file() else None
    sweep = plan(base, overrides, read_seeds(seeds), named, like)
    console = Screen(soft_wrap=True)
    board = board_for(console, [cell.name for cell in sweep.cells], quiet)
    try:
        swept = run_sweep(sweep, jobs, board)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the same command goes on with {sweep.folder}") from None
    finally:
        board.close()
    if swept.finished and not quiet:
        console.print()
        Screen().print(render_table(grouped([RunFolder.open(run) for run in swept.finished])))
    console.print(str(swept.folder), highlight=False, markup=False)
    if swept.failures:
        first, why = next(iter(swept.failures.items()))
        raise RunFailed(
            f"{len(swept.failures)} of {len(sweep.cells)} runs failed, the first {first}: {why.splitlines()[0]}; what "
            f"they printed is in {swept.logs}; the same command tries them again"
        )
