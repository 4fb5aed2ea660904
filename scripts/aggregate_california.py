"""Label-private bag means of house prices: an MLP over bag sizes, interpolations and privacy budgets.

Run `python scripts/aggregate_california.py --data california_housing.csv.gz --out california.json`, once per `--seed`.
A seed takes about 3 minutes on one CPU core. With `--rows 1000 --rounds 100` there are few bags, so interpolation
should help more. The table is the 1990 census of California by block group: 20,640 rows with the column
`median_house_value`.

A step uses 64 rows for every bag size. Prices are in [15,000, 500,001]. This range is public. It is centred and scaled
to [-2.11, 2.11], so that clipping changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.config.resolve import resolve
from fedsim.runs.simulation import Simulation

BASE: dict[str, Any] = {
    "strategy": {"name": "aggregate", "clip": 2.11},
    "data": {
        "csv": {"target": "median_house_value"}, "target_scale": [257_500, 115_000],
        "partition": "iid",
    },
    "clients": 10,
    "model": {"name": "mlp", "hidden": [64, 64]},
    "training": {"epochs": 1, "lr": 0.05, "momentum": 0.5, "vectorize": "always"},
}  # fmt: skip
EPSILONS = (0.5, 1.0, 4.0, None)
BAGS = (1, 4, 16, 64)
RHOS = (0.0, 0.02, 0.1, 0.3, 1.0)


def final(
    table: Path, seed: int, k: int, rho: float, epsilon: float | None, changes: dict[str, Any]
) -> dict[str, float]:
    """Return the metrics after the last round of one run."""
    own = {"bag_size": k, "rho": rho, "epsilon": epsilon}
    config = resolve(
        BASE,
        {"seed": seed, "data.name": f"csv:{table}", "training.batch_size": 64 // k},
        {f"strategy.{key}": value for key, value in own.items()} | changes,
    )
    simulation = Simulation(config)
    engine, state = simulation.engine(), simulation.begin()
    metrics: dict[str, float] = {}
    for _ in range(config.rounds):
        metrics = simulation.step(state, engine)
    return metrics


def main(
    data: Annotated[Path, typer.Option(help="The file california_housing.csv.gz.")],
    seed: Annotated[int, typer.Option()] = 0,
    rows: Annotated[int | None, typer.Option(help="Training rows to keep; all by default.")] = None,
    rounds: Annotated[int, typer.Option()] = 30,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, and print the test error of each setting."""
    changes = {"rounds": rounds, "eval_every": rounds, "data.max_per_class": rows}
    found = []
    for epsilon in EPSILONS:
        for k in BAGS:
            for rho in RHOS if k > 1 else RHOS[:1]:
                metrics = final(data, seed, k, rho, epsilon, changes)
                mse, r2 = metrics["global/mse"], metrics["global/r2"]
                found.append({"epsilon": epsilon, "k": k, "rho": rho, "mse": mse, "r2": r2})
                print(f"eps {epsilon}  k {k}  rho {rho}: mse {mse:.4f}  r2 {r2:.3f}", flush=True)
                if out is not None:
                    out.write_text(json.dumps({"seed": seed, "rows": found}, indent=1))


if __name__ == "__main__":
    typer.run(main)
