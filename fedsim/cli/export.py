"""`fedsim export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.screen import Screen
from fedsim.errors import FedsimError, nearest

_SUFFIXES = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run, an unlearning or a pruning.")],
    form: Annotated[str, typer.Option("--format", help="safetensors, torchscript or onnx.")] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="The file to write; by default RUN's name, in this folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
) -> None:
    """Write the model in the folder RUN as one file, with its normalisation and its class names."""
    if form not in _SUFFIXES:
        raise FedsimError(f"--format {form}: no such format; {nearest(form, _SUFFIXES)}")
    path = out or Path(f"{run.resolve().name}{_SUFFIXES[form]}")
    if path.exists() and not force:
        raise FedsimError(f"{path}: exists already; choose another --out, or replace it with --force")
    from fedsim.models.portable import export, load_model

    export(load_model(run), path, form)  # type: ignore[arg-type]  # one of the formats above
    Screen(soft_wrap=True).print(str(path), highlight=False, markup=False)
