"""LDS of TRAK and of datamodels on digits: rank correlation with real retraining, for clients and for samples.

Three runs of 12 clients with seeds of their own. Clients: TRAK (5 checkpoints) and datamodels (120 subset models) are
judged by 40 others, each without about a tenth of the clients. Samples: TRAK, by 40 models without about a tenth of the
samples, and by 40 without half of them; with lambda as the length of training has it, and with none.

Run `python scripts/attribution_digits.py --out FOLDER`; about 12 minutes of CPU, over all cores. It goes on where it
was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from evidence import Ledger

import fedsim
from unlearning.pipeline import attribute as pipeline
from unlearning.pipeline.attribute import attribute
from unlearning.pipeline.attribution import Unit

RECIPE = {
    "clients": 12, "rounds": 12, "name": "digits",
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
    "data": {"partition": {"name": "dirichlet", "alpha": 0.3}},
}  # fmt: skip
ROWS: dict[str, tuple[str, Unit, int, float, bool]] = {
    "clients, TRAK": ("trak", "client", 5, 0.9, True),
    "clients, datamodels": ("datamodels", "client", 120, 0.9, True),
    "samples, TRAK, 0.9 kept": ("trak", "sample", 5, 0.9, True),
    "samples, TRAK, half kept": ("trak", "sample", 5, 0.5, True),
    "samples, TRAK without λ, half kept": ("trak", "sample", 5, 0.5, False),
}


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs and of attribution_digits.json.")],
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    judges: Annotated[int, typer.Option(min=3)] = 40,
) -> None:
    """Train what is missing, and print a table."""
    out.mkdir(parents=True, exist_ok=True)
    ledger, time_of = Ledger(out / "attribution_digits.json"), pipeline.time_of
    for repetition in range(repetitions):
        place = out / str(repetition)
        if not (place / "digits" / "summary.json").is_file():
            fedsim.run(RECIPE, overrides={"out": str(place), "seed": 1_000_000 * (repetition + 1)}, force=True)
        for row, (method, unit, models, share, early) in ROWS.items():
            if ledger.has("LDS", row, repetition):
                continue
            pipeline.time_of = time_of if early else lambda source: np.inf
            _, made = attribute(
                place / "digits", "test=0-99", method, unit, models=models, judges=judges, share=share, say=print
            )
            assert made.lds is not None
            ledger.add("LDS", row, repetition, {"LDS": made.lds.value, "low": made.lds.low, "high": made.lds.high})
    print(ledger.markdown("LDS", 3))


if __name__ == "__main__":
    typer.run(main)
