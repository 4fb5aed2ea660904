"""LDS of TRAK and of datamodels on digits: rank correlation with real retraining, for clients and for samples.

There are three runs of 12 clients, each with its own seed. For clients, TRAK (5 checkpoints) and datamodels (120 subset
models) are judged by 40 other models, each trained without about a tenth of the clients. For samples, TRAK is judged by
40 models without about a tenth of the samples and by 40 models without half of them. λ is set from the length of
training, or is 0. If the authors' `trak` package is installed (`pip install traker`), it is applied to the same
checkpoints.

Run `python scripts/attribution_digits.py --out FOLDER`. It takes about 4 minutes of CPU time over all cores. An
interrupted run continues where it stopped.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from evidence import Ledger
from torch import Tensor

import fedsim
from fedsim.models.base import Classifier
from unlearning.parts.trak import trak
from unlearning.pipeline import attribute as pipeline
from unlearning.pipeline.attribute import attribute
from unlearning.pipeline.attribution import Unit

RECIPE = {
    "clients": 12, "rounds": 12, "name": "digits",
    "model": {"name": "mlp", "hidden": [64]},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
    "data": {"partition": {"name": "dirichlet", "alpha": 0.3}},
}  # fmt: skip
PACKAGE = "samples, the trak package, half kept"
ROWS: dict[str, tuple[str, Unit, int, float, bool]] = {
    "clients, TRAK": ("trak", "client", 5, 0.9, True),
    "clients, datamodels": ("datamodels", "client", 120, 0.9, True),
    "samples, TRAK, 0.9 kept": ("trak", "sample", 5, 0.9, True),
    "samples, TRAK, half kept": ("trak", "sample", 5, 0.5, True),
    "samples, TRAK without λ, half kept": ("trak", "sample", 5, 0.5, False),
    PACKAGE: ("trak", "sample", 5, 0.5, False),
}


def of_the_package(
    models: Sequence[Classifier], train: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], dimension: int,
    seed: int, ridge: float,
) -> Tensor:  # fmt: skip
    """Return the scores (T, N) of the authors' package; see `unlearning.parts.trak.trak`."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType
    from trak.score_computers import BasicSingleBlockScoreComputer

    class OneBlock(BasicSingleBlockScoreComputer):  # type: ignore[misc]  # the default asks for a GPU at its end
        def __init__(self, dtype: torch.dtype, device: torch.device, **_: object) -> None:
            super().__init__(dtype, device)

    size, cpu = sum(value.numel() for value in models[0].parameters()), "cpu"
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            models[0], "image_classification", len(train[1]), save_dir=folder, device=cpu, use_half_precision=False,
            projector=BasicProjector(size, dimension, seed, ProjectionType.rademacher, cpu), proj_dim=dimension,
            score_computer=OneBlock, logging_level=logging.CRITICAL,
        )  # fmt: skip
        for number, model in enumerate(models):
            traker.load_checkpoint(model.state_dict(), model_id=number)
            traker.featurize(batch=train, num_samples=len(train[1]))
        traker.finalize_features()
        for number, model in enumerate(models):
            traker.start_scoring_checkpoint("targets", model.state_dict(), number, len(targets[1]))
            traker.score(batch=targets, num_samples=len(targets[1]))
        return torch.from_numpy(np.array(traker.finalize_scores("targets"))).double().T


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs and of attribution_digits.json.")],
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
    judges: Annotated[int, typer.Option(min=3)] = 40,
) -> None:
    """Train what is missing, and print a table."""
    out.mkdir(parents=True, exist_ok=True)
    ledger, time_of = Ledger(out / "attribution_digits.json"), pipeline.time_of
    missing = importlib.util.find_spec("trak") is None
    for repetition in range(repetitions):
        place = out / str(repetition)
        if not (place / "digits" / "summary.json").is_file():
            fedsim.run(RECIPE, overrides={"out": str(place), "seed": 1_000_000 * (repetition + 1)}, force=True)
        for row, (method, unit, models, share, early) in ROWS.items():
            if ledger.has("LDS", row, repetition) or (row == PACKAGE and missing):
                continue
            vars(pipeline)["trak"] = of_the_package if row == PACKAGE else trak
            pipeline.time_of = time_of if early else lambda source: np.inf
            _, made = attribute(
                place / "digits", "test=0-99", method, unit, models=models, judges=judges, share=share, say=print
            )
            assert made.lds is not None
            ledger.add("LDS", row, repetition, {"LDS": made.lds.value, "low": made.lds.low, "high": made.lds.high})
    print(ledger.markdown("LDS", 3))


if __name__ == "__main__":
    typer.run(main)
