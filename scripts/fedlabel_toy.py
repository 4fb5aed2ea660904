"""FedLabel, its baselines and ablations on Gaussian clusters, with checks of the expected results.

Run `python scripts/fedlabel_toy.py --out fedlabel_toy.jsonl`: 150 runs of about 8 seconds on one CPU core. Runs that
are in the file are not repeated, so the script can be stopped, or called for one seed at a time. It exits with 1 if a
check fails.

Data: 6,000 training and 3,600 test points in R^32, 10 classes of 3 clusters, centres 0.5 N(0, I), noise 0.55. 10
clients, Dirichlet(alpha), 2 % of each client's labels, at least 2. MLP 32-64-10, 40 rounds, full participation,
tau = tau' = 20 steps of 32, lr 0.1. Accuracies are in percent, the mean of the last 10 rounds. Coverage is the fraction
of unlabelled samples that got a pseudo-label. The number beside it is the fraction of these labels that were right.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import typer

from fedsim.config.resolve import resolve
from fedsim.randomness import generator
from fedsim.runs.simulation import Simulation

ALPHAS = (1.0, 0.3, 0.1)
SPREAD = (0.25 * (1 - 1 / 30) + 0.55**2) ** 0.5
"""Standard deviation of a feature. The run divides features by it, so the noise must be divided by it too."""
BASE: dict[str, Any] = {
    "clients": 10, "rounds": 40, "model.name": "mlp", "model.hidden": [64], "model.norm": "none",
    "data.partition": {"name": "dirichlet", "min_samples": 6}, "data.labelled_fraction": 0.02, "data.labelled_min": 2,
    "training.steps": 20, "training.batch_size": 32, "training.lr": 0.1, "training.vectorize": "always",
}  # fmt: skip
STRONG = {"strategy.strong.feature_dropout": 0.15, "strategy.strong.feature_noise": round(0.3 / SPREAD, 3)}
FEDAVG, FIXMATCH = {"strategy": "fedavg"}, {"strategy.name": "fixmatch", **STRONG}
FEDLABEL = {"strategy.name": "fedlabel", "strategy.threshold": 0.5, **STRONG}
METHODS: dict[str, dict[str, Any]] = {
    "FedAvg": FEDAVG,
    "FedAvg, 100 % labels": {**FEDAVG, "data.labelled_fraction": 1.0},
    "FixMatch, beta .5": {**FIXMATCH, "strategy.threshold": 0.5},
    "FixMatch, beta .9": {**FIXMATCH, "strategy.threshold": 0.9},
    "only local": {**FEDLABEL, "strategy.expert": "local", "strategy.penalty": 0.0},
    "only global": {**FEDLABEL, "strategy.expert": "global", "strategy.penalty": 0.0},
    "FedLabel, lambda_0 = 0": {**FEDLABEL, "strategy.penalty": 0.0},
    "FedLabel": FEDLABEL,
    "FedLabel, KL(s- || p)": {**FEDLABEL, "strategy.divergence": "expert"},
    "FedLabel, beta .9": {**FEDLABEL, "strategy.threshold": 0.9},
}
GATES = [  # (better, worse, points, alphas)
    ("FedLabel", "FedAvg", 5.0, (1.0, 0.3)),
    ("FedLabel", "only global", 7.0, ALPHAS),
    ("FedLabel", "FixMatch, beta .5", 1.0, (1.0,)),
    ("FedLabel", "FedLabel, lambda_0 = 0", 0.0, (1.0, 0.3)),
    ("FedLabel", "FedLabel, beta .9", 0.0, (0.1,)),
]

Result = dict[str, Any]
"""method, alpha, seed, accuracy, and, if available, coverage and pseudo_accuracy; in percent."""


def write_points(path: Path, seed: int) -> None:
    """Write the clusters as an archive."""
    rng = generator(seed, "clusters")
    centres = 0.5 * rng.standard_normal((30, 32))
    arrays: dict[str, Any] = {}
    for half, count in (("train", 6000), ("test", 3600)):
        which = rng.integers(0, 30, count)
        arrays[f"x_{half}"] = (centres[which] + 0.55 * rng.standard_normal((count, 32))).astype(np.float32)
        arrays[f"y_{half}"] = which // 3
    np.savez(path, **arrays)


def train(options: Mapping[str, Any], points: Path, alpha: float, seed: int) -> Result:
    """Return the means over the last 10 rounds."""
    layers = {"data.name": f"npz:{points}", "data.partition.alpha": alpha, "seed": seed}
    simulation = Simulation(resolve(BASE, layers, options))
    engine, state = simulation.engine(), simulation.begin()
    rounds = [simulation.step(state, engine) for _ in range(simulation.config.rounds)]
    engine.close()

    def percent(name: str) -> float:
        return round(100 * mean(metrics[name] for metrics in rounds[-10:]), 3)

    result: Result = {"accuracy": percent("global/accuracy")}
    if "train/pseudo_labels:neither" in rounds[-1]:
        result |= {
            "coverage": 100 - percent("train/pseudo_labels:neither"),
            "pseudo": percent("train/pseudo_labels:accuracy"),
        }
        result |= {"local": percent("train/pseudo_labels:local")}
    return result


def table(results: Sequence[Result], alphas: Sequence[float]) -> str:
    """Return a Markdown table of mean ± standard deviation over the seeds."""
    lines = [f"| method | {' | '.join(f'alpha {alpha}' for alpha in alphas)} |", "|" + " --- |" * (len(alphas) + 1)]
    for method in METHODS:
        lines.append(f"| {' | '.join([method, *(_cell(_of(results, method, alpha)) for alpha in alphas)])} |")
    return "\n".join(lines)


def _of(results: Sequence[Result], method: str, alpha: float) -> list[Result]:
    found = [result for result in results if (result["method"], result["alpha"]) == (method, alpha)]
    return sorted(found, key=lambda result: int(result["seed"]))


def _cell(found: Sequence[Result]) -> str:
    if not found:
        return "-"
    values = [result["accuracy"] for result in found]
    text = f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
    if "coverage" in found[0]:
        text += f" ({mean(r['coverage'] for r in found):.0f} / {mean(r['pseudo'] for r in found):.0f})"
    return text


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0 to 4 by default.")] = None,
    alphas: Annotated[list[float] | None, typer.Option(help="Repeatable; 1, 0.3 and 0.1 by default.")] = None,
    out: Annotated[Path, typer.Option(help="Results, one line of JSON per run; runs are appended.")] = Path(
        "fedlabel_toy.jsonl"
    ),
) -> None:
    """Train missing runs; print the table and the checks."""
    seeds, chosen = seeds or list(range(5)), alphas or list(ALPHAS)
    results = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(result["method"], result["alpha"], result["seed"]) for result in results}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            points = Path(folder) / f"points{seed}.npz"
            write_points(points, seed)
            for alpha in chosen:
                for method, options in METHODS.items():
                    if (method, alpha, seed) not in done:
                        where = {"method": method, "alpha": alpha, "seed": seed}
                        results.append({**where, **train(options, points, alpha, seed)})
                        with out.open("a") as file:
                            print(json.dumps(results[-1]), file=file)
                        print(results[-1], flush=True)
    results = [result for result in results if result["seed"] in seeds]
    print(f"\naccuracy (coverage / pseudo-label accuracy), percent\n\n{table(results, chosen)}\n")
    missed = 0
    for better, worse, points_ahead, where_asked in GATES:
        for alpha in [alpha for alpha in where_asked if alpha in chosen]:
            pairs = zip(_of(results, better, alpha), _of(results, worse, alpha), strict=True)
            gains = [round(a["accuracy"] - b["accuracy"], 1) for a, b in pairs]
            met = mean(gains) >= points_ahead
            missed += not met
            verdict = "met" if met else "MISSED"
            print(
                f"{verdict}: alpha {alpha}: {better} - {worse} = {mean(gains):+.1f}, asked {points_ahead:+g}; {gains}"
            )
    raise typer.Exit(code=1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
