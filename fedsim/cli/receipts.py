"""`fedsim receipts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError


@app.command("receipts")
def receipts_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check hashes, chain, signatures and that data is gone.")
    ] = False,
    key: Annotated[Path | None, typer.Option(help="Ed25519 public key in PEM that must have signed them.")] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Finish an interrupted purge.")] = False,
    sign: Annotated[Path | None, typer.Option(help="With --finish: the private key for the receipt.")] = None,
) -> None:
    """List the deletions from the run in the folder RUN, or check that their receipts are intact."""
    from fedsim.runs.folder import RunFolder
    from unlearning.pipeline import deletions

    def say(line: str) -> None:
        Screen(soft_wrap=True).print(line, highlight=False, markup=False)

    if sign is not None and not finish:
        raise FedsimError("--sign: signs the receipt of a purge that --finish ends; add it")
    if finish:
        from unlearning.pipeline.deletion import finish as end

        end(run, sign, say)
        return
    folder = RunFolder.open(run).path
    if key is not None and not verify:
        raise FedsimError("--key: checks signatures, so add --verify")
    if verify:
        lines = deletions.verify(folder, key)
    else:
        lines = [
            f"deletion {receipt.number}, {receipt.time}: {', '.join(receipt.request.specs)} by {receipt.method}; "
            f"{receipt.verdict}"
            for receipt in deletions.read_receipts(folder)
        ]
    for line in lines or ["nothing was deleted from this run"]:
        say(line)
