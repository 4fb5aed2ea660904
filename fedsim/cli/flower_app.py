"""`fedsim flower-app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen


@app.command("flower-app")
def flower_app_command(
    run: Annotated[str, typer.Argument(help="A run folder, a preset's name or a YAML file.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Write the federation of RUN as an app for Flower's SuperLink and SuperNodes, to the new folder OUT."""
    from fedsim.deploy.write import write_app

    console = Screen(soft_wrap=True)
    console.print(str(write_app(run, out)), highlight=False, markup=False)
    console.print(f"next: say in {out / 'federation' / 'data.py'} where samples come from; {out / 'README.md'} has how "
                  "to run it", highlight=False, markup=False)  # fmt: skip
