"""`fedsim privacy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen


@app.command("privacy")
def privacy_command(
    run: Annotated[Path, typer.Argument(help="A run folder, or a folder of personalized models.")],
    audit: Annotated[bool, typer.Option("--audit", help="Test the mechanism with canaries, at small scale.")] = False,
) -> None:
    """Print the epsilon and delta of the run in the folder RUN so far, and what they do not cover."""
    from fedsim.privacy.ledger import Ledger, exists
    from fedsim.privacy.show import render_ledger
    from fedsim.runs.folder import RunFolder

    if not exists(run):
        RunFolder.open(run)  # raises if it is not a run folder
    ledger = Ledger.read(run)
    console = Screen(soft_wrap=True)
    console.print(render_ledger(ledger))
    if audit:
        from fedsim.config.resolve import resolve
        from fedsim.privacy.show import render_audits
        from fedsim.runs.privacy_audit import audit_run

        console.print(render_audits(audit_run(resolve(RunFolder.open(run).config), ledger)))
