"""KLOM and U-LiRA of models with equal distributions and of models that remember; and the cost of many models.

4 % of the labels of digits are wrong. N originals and 2 N oracles are trained without run folders, with other seeds in
each repetition. Null: N oracles against N other oracles. Power: originals against oracles, on the mislabelled samples.

Run `python scripts/many_models_digits.py --out FOLDER`. Three repetitions of N = 64 take about 8 minutes of CPU time
over all cores. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import fedsim
from fedsim.randomness import generator
from unlearning.evaluation.ensembles import Ensembles, measure_ensembles
from unlearning.evaluation.u_lira import u_lira
from unlearning.pipeline.ensemble import Member, train_members
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.further import further_models
from unlearning.pipeline.source import open_source

RECIPE = {
    "clients": 6, "rounds": 15, "name": "digits",
    "model": {"name": "mlp"},
    "training": {"epochs": 3, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
    "data": {"partition": "iid", "canaries": {"mislabelled": 0.04}},
}  # fmt: skip


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its finished child processes, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")],
    models: Annotated[int, typer.Option(min=8, help="N.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Train missing models, and print a table."""
    values: dict[str, list[float]] = {}
    for repetition in range(repetitions):
        seed = 100_000 * (repetition + 1)
        place = out / str(repetition)
        if not (place / "digits" / "summary.json").is_file():
            fedsim.run(RECIPE, overrides={"out": str(place), "seed": seed}, force=True)
        source = open_source(place / "digits")
        request = parse_forget("canaries=mislabelled", source.data, seed)
        seeds = range(seed + 1, seed + 1 + models)
        used, begun = cpu_seconds(), time.perf_counter()
        found = further_models(source, request, seeds, {}, print)
        print(f"{2 * models} models: {cpu_seconds() - used:.0f} s of CPU, {time.perf_counter() - begun:.0f} s")
        apart = [Member(seed + 10_000 + number, request.rows) for number in range(models)]
        others = [
            kept.margins("train", request.rows)
            for kept in train_members(source, apart, frozenset(), print, "other oracles")
        ]
        originals, oracles = (np.stack([m.margins("forget") for m in found[side]]) for side in ("original", "oracle"))
        for what, side in (("alike", np.stack(others)), ("remembers", originals)):
            rng = generator(seed, "many models")
            measured = measure_ensembles(Ensembles({"forget": side}, {"forget": oracles}), rng)
            attack = u_lira(side, oracles, rng).attack
            row = {
                "KLOM": measured["klom_forget"].value, "simulated floor": measured["klom_forget"].null,
                "U-LiRA": attack.value, "standard error": attack.standard_error,
            }  # fmt: skip
            print(what, {name: round(float(value), 3) for name, value in row.items() if value is not None})
            for name, value in row.items():
                values.setdefault(f"{what}: {name}", []).append(float(value or 0.0))
    for name, numbers in values.items():
        print(f"{name:28} {np.mean(numbers):.3f} ± {np.std(numbers, ddof=1) if len(numbers) > 1 else 0:.3f}")


if __name__ == "__main__":
    typer.run(main)
