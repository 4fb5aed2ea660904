"""Datamodel matching on CIFAR-10 with a ResNet-9 of half width, on a GPU: `dmm_fashion.py` at a realistic size.

There are 20 blocks of 2,500 images of one class each. The request is one block, half of a class. 100 originals, two
times 100 oracles, and 100 models of subsets of the blocks (alpha = 0.9) are trained, 10 epochs each. Every member is
stored as soon as it is trained.

Run `python scripts/dmm_gpu.py --data-root FOLDER --out FOLDER --seconds 540` repeatedly until it prints its table. Each
call trains for this number of seconds. `--width 4 --per-class 20 --models 8 --subsets 40` tests it on a CPU.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from dmm_fashion import Repetition
from evidence import Ledger

import fedsim
from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from unlearning.pipeline.source import Source, open_source

GROUPS_PER_CLASS, FORGOTTEN_CLASS = 2, 6
MATCHING: dict[str, Any] = {"batch_size": 512, "lr": 1e-4, "lr_decay": 0.95, "epochs": 4, "retain_times": 5.0}


def make_run(place: Path, root: Path | None, per_class: int, width: int) -> Source:
    """Return the run; train it if it is missing."""
    if not (place / "run" / "summary.json").is_file():
        whole = load_dataset(DataConfig(name="cifar10", root=root), 0)
        rows = np.concatenate([np.flatnonzero(whole.y_train == label)[:per_class] for label in range(10)])
        place.mkdir(parents=True, exist_ok=True)
        np.savez(
            place / "cifar.npz", x_train=whole.x_train[rows], y_train=whole.y_train[rows],
            x_test=whole.x_test, y_test=whole.y_test,
        )  # fmt: skip
        training = {
            "epochs": 1, "batch_size": 256, "lr": 0.4, "momentum": 0.9, "weight_decay": 5e-4,
            "schedule": {"name": "cosine", "warmup": 3},
        }  # fmt: skip
        recipe = {
            "data": {"name": f"npz:{place / 'cifar.npz'}"}, "clients": 1, "rounds": 10, "eval_every": 10,
            "min_replies": 1, "model": {"name": "resnet9", "width": width}, "training": training,
            "name": "run", "out": str(place),
        }  # fmt: skip
        fedsim.run(recipe, force=True)
    return open_source(place / "run")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run and of dmm_gpu.json.")],
    data_root: Annotated[Path | None, typer.Option(help="Folder of cifar10.npz; else $FEDSIM_DATA.")] = None,
    models: Annotated[int, typer.Option(min=8, help="N.")] = 100,
    subsets: Annotated[int, typer.Option(min=40)] = 100,
    per_class: Annotated[int, typer.Option(min=20, max=5000, help="Training images.")] = 5000,
    width: Annotated[int, typer.Option(min=1, help="Channels of the first convolution.")] = 32,
    seconds: Annotated[float, typer.Option(help="Stop after this number of seconds; the next call continues.")] = 1e9,
) -> None:
    """Train, forget, and print the table."""
    begun = time.monotonic()

    def in_time(line: str) -> None:
        print(line, flush=True)
        if time.monotonic() - begun > seconds:
            raise typer.Exit(3)

    out.mkdir(parents=True, exist_ok=True)
    source = make_run(out, data_root, per_class, width)
    half = per_class // GROUPS_PER_CLASS
    all_of = Repetition(out, source, models, subsets, half, GROUPS_PER_CLASS * FORGOTTEN_CLASS, in_time)
    ledger = Ledger(out / "dmm_gpu.json")
    told = all_of.shifts(share=0.9)
    rows: dict[str, Any] = {
        "oracles": lambda: all_of.row([all_of.brief(kept.model(source)) for kept in all_of.others], 0.0),
        "do nothing": lambda: all_of.row([all_of.brief(kept.model(source)) for kept in all_of.originals], 0.0),
        "ascent": lambda: all_of.unlearned("neggrad", {"lr": 1e-4, "epochs": 1}),
        "SCRUB": lambda: all_of.unlearned("scrub", {}),
        "oracle matching": lambda: all_of.unlearned("oracle_matching", MATCHING),
        "DM-Direct": lambda: all_of.direct(told),
        "DMM": lambda: all_of.unlearned("datamodel_matching", MATCHING, told),
    }
    for row, values in rows.items():
        if not ledger.has("KLOM", row, 0):
            ledger.add("KLOM", row, 0, values())
            in_time(f"{row}: done")
    ledger.add("attribution", "α = 0.9", 0, all_of.quality(told))
    print(ledger.markdown("KLOM", 2))


if __name__ == "__main__":
    typer.run(main)
