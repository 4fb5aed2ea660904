"""MUFAC: forget people in a classifier of ages (arXiv:2311.02240), all methods beside the published table.

    python scripts/bench_mufac.py --procedural 60            needs no download; minutes on two cores
    python scripts/bench_mufac.py --root FOLDER --full       the authors' images and network, for a GPU
    python scripts/bench_mufac.py --procedural 60 --federated   families are clients, and some of them are forgotten

`--out` receives table.json, table.csv, table.tex and index.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from bench_faces import FEDERATED, PAPER, SMALL, Benchmark
from faces_tree import MUFAC_FOLDER, of_size, write_mufac

LINK = "the authors hand the images out at https://github.com/ndb796/MachineUnlearning"


def main(
    procedural: Annotated[int | None, typer.Option(help="Draw this many procedural people for training.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the authors' images.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The authors' network and epochs.")] = False,
    federated: Annotated[bool, typer.Option("--federated", help="Families are clients.")] = False,
    dedup: Annotated[str, typer.Option(help="How repeated images are removed: none, exact, phash.")] = "none",
    method: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="An authors' recipe; repeatable; all by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Repetitions.")] = 3,
    images: Annotated[int, typer.Option(help="Images of each procedural person.")] = 12,
    size: Annotated[int | None, typer.Option(help="Image side in pixels; 32, or 128 with --full.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Epochs of training; rounds if federated.")] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("bench_mufac"),
) -> None:
    """Train, forget, and print the table."""
    notes = []
    if root is None:
        procedural = procedural or 60
        notes.append(f"procedural faces, {procedural} people to train on; {LINK}")
        cast, root = of_size(procedural, images), out / "faces"
        if not (root / MUFAC_FOLDER).exists():
            write_mufac(root, cast, 0, size or (128 if full else 32))
        forget, families = f"first={cast.unseen * cast.images}", cast.unseen // cast.in_family
    else:
        forget, families = "first=1500", 45  # of 299: the same fraction as 1,500 of 10,025
    options = {**(PAPER if full else SMALL), "data.name": "mufac", "data.root": str(root), "data.folder.dedup": dedup}
    if full:
        options |= {
            "rounds": 30, "training.momentum": 0.9, "training.schedule.name": "steps", "training.schedule.at": [10, 20],
        }  # fmt: skip
    if federated:
        options |= {**FEDERATED, "data.partition.by": "family_id"}
        forget = f"clients=0-{max(families, 1) - 1}"
    if size is not None:
        options["data.folder.size"] = size
    if rounds is not None:
        options["rounds"] = rounds
    Benchmark(
        "MUFAC, federated" if federated else "MUFAC", "MUFAC", options, forget, out, seeds, method or ("all",),
        recipes=() if federated else recipe or ("all",), notes=notes,
    ).run()  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
