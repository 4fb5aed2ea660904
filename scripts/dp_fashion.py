"""FedAvg with client-level differential privacy on Fashion-MNIST: accuracy against epsilon.

Run `python scripts/dp_fashion.py --data-root FOLDER --out dp_fashion.json`. It takes about 10 minutes on one CPU core.
The noise is calibrated to each epsilon. The epsilon in the table is composed from the ledger at the end of a run.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from fedsim.config.resolve import resolve
from fedsim.privacy.guarantees import guarantees
from fedsim.runs.simulation import Simulation

EPSILONS = (1.0, 3.0, 8.0, math.inf)
BASE: dict[str, Any] = {
    "clients": 3000, "cohort": 300, "rounds": 100, "eval_every": 100,
    "data": {"name": "fashionmnist", "partition": {"name": "dirichlet", "alpha": 1.0}},
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 2, "batch_size": 10, "lr": 0.1, "vectorize": "always"},
}  # fmt: skip
PRIVATE = {"clip_norm": 0.5, "delta": 1e-5}


def run(epsilon: float, seed: int, overrides: dict[str, Any]) -> dict[str, float]:
    """Train. Return accuracy in [0, 1], the noise multiplier, the ledger's epsilon and seconds."""
    privacy = {"privacy.client": {**PRIVATE, "target_epsilon": epsilon}} if math.isfinite(epsilon) else {}
    begun = time.perf_counter()
    simulation = Simulation(resolve(BASE, privacy, {"seed": seed}, overrides))
    state, engine = simulation.begin(), simulation.engine()
    metrics: dict[str, float] = {}
    for _ in range(simulation.config.rounds):
        metrics |= simulation.step(state, engine)
    engine.close()
    central = simulation.config.privacy.client
    return {
        "accuracy": metrics["global/accuracy"],
        "noise_multiplier": central.noise if central else 0.0,
        "epsilon": guarantees(state.ledger, with_replaced=False)[0].epsilon if central else math.inf,
        "seconds": time.perf_counter() - begun,
    }


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    epsilons: Annotated[list[float] | None, typer.Option(help="Repeatable; 1, 3, 8 and inf by default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any option: key.path=value. Repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, and print the table."""
    from fedsim.config.resolve import parse_override

    overrides = dict(map(parse_override, sets or []))
    if data_root is not None:
        overrides["data.root"] = str(data_root)
    rows = []
    for epsilon in epsilons or EPSILONS:
        runs = [run(epsilon, seed, overrides) for seed in seeds or [0, 1, 2]]
        rows.append({"target": epsilon, "runs": runs})
        accuracies = [100 * one["accuracy"] for one in runs]
        spread = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        print(
            f"| {epsilon:g} | {max(one['epsilon'] for one in runs):.3f} | {runs[0]['noise_multiplier']:.3f} "
            f"| {mean(accuracies):.1f}{spread} | {mean(one['seconds'] for one in runs):.0f} s |",
            flush=True,
        )
    if out is not None:
        out.write_text(json.dumps({"base": BASE, "privacy": PRIVATE, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
