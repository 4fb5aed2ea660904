"""MUCAC: forget celebrities in a classifier of facial attributes (arXiv:2311.02240), beside the published tables.

    python scripts/bench_mucac.py --procedural 60 --attribute Smiling
    python scripts/bench_mucac.py --procedural 60 --attribute all       three labels in one model
    python scripts/bench_mucac.py --root FOLDER --attribute Male --full

`--out` receives table.json, table.csv, table.tex and index.html.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from bench_faces import FEDERATED, PAPER, SMALL, Benchmark
from faces_tree import of_size, write_mucac

NAMES = ("all", "Male", "Smiling", "Young")
PAPER_THRESHOLDS = (190, 1250, 4855)


def main(
    attribute: Annotated[str, typer.Option(help="Male, Smiling, Young, or all: three labels.")] = "all",
    procedural: Annotated[int | None, typer.Option(help="Draw this many procedural people for training.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the authors' images.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The authors' network and epochs.")] = False,
    federated: Annotated[bool, typer.Option("--federated", help="People are clients.")] = False,
    shuffled: Annotated[bool, typer.Option("--shuffled", help="Assign the people's numbers at random.")] = False,
    method: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="An authors' recipe; repeatable; all by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Repetitions.")] = 3,
    images: Annotated[int, typer.Option(help="Images of each procedural person.")] = 12,
    size: Annotated[int | None, typer.Option(help="Image side in pixels; 32, or 128 with --full.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Epochs of training; rounds if federated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where everything goes.")] = None,
) -> None:
    """Train, forget, and print the table."""
    if attribute not in NAMES:
        raise typer.BadParameter(f"--attribute must be one of {', '.join(NAMES)}, got {attribute!r}")
    out = out or Path(f"bench_mucac_{attribute}")
    notes, thresholds = [], PAPER_THRESHOLDS
    if root is None:
        procedural = procedural or 60
        notes.append(f"procedural faces, {procedural} people to train on; the authors name CelebA-HQ as their source")
        cast, root = of_size(procedural, images), out / "faces"
        known = root / "thresholds.json"
        if not known.exists():
            drawn = write_mucac(root, cast, cast.unseen, 0, size or (128 if full else 32))
            known.write_text(json.dumps(drawn), encoding="utf-8")
        thresholds = tuple(json.loads(known.read_text(encoding="utf-8")))
    options = {
        **(PAPER if full else SMALL), "data.name": "mucac", "data.root": str(root),
        "data.mucac.attribute": attribute, "data.mucac.thresholds": list(thresholds), "data.mucac.shuffled": shuffled,
    }  # fmt: skip
    if full:
        options |= {"rounds": 8 if attribute == "all" else 10, "training.momentum": 0.0 if attribute == "all" else 0.9}
    forget = f"identity={thresholds[0]}-{thresholds[1] - 1}"
    if federated:
        options |= {**FEDERATED, "data.partition.by": "identity"}
        notes.append("clients are people, in the order of their numbers")
    if size is not None:
        options["data.folder.size"] = size
    if rounds is not None:
        options["rounds"] = rounds
    title = "MUCAC" if attribute == "all" else f"MUCAC {attribute}"
    recipes = () if federated else recipe or ("all",)
    Benchmark(title, title, options, forget, out, seeds, method or ("all",), recipes, notes).run()


if __name__ == "__main__":
    typer.run(main)
