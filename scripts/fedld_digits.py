"""FedLD, its two parts, variants and baselines on label-skewed digits, with checks of the expected results.

Run `python scripts/fedld_digits.py --out FOLDER`. A seed takes about 4 minutes on one CPU core. The exit code is 1 if a
check fails. FOLDER has one file per seed with a line per run. Existing runs are not trained again, so seeds can be
trained in parallel (`--seeds 0`, `--seeds 1`, ...) and tabulated together.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import torch
import typer

from fedsim.config.resolve import find_config, resolve
from fedsim.data.federation import federate
from fedsim.data.transforms import normalize
from fedsim.runs.simulation import Simulation

MEAN: dict[str, Any] = {"name": "fedld", "aggregation": "mean", "penalty": 0.0}
PG: dict[str, Any] = {"name": "fedld", "penalty": 0.0}
UNWEIGHTED = "FedAvg, unweighted"
METHODS: dict[str, dict[str, Any]] = {
    "FedAvg": {"name": "fedavg"},
    UNWEIGHTED: MEAN,
    "FedAvg, server lr 0.5": {"name": "fedavgm", "server_momentum": 0.0, "server_learning_rate": 0.5},
    "FedAvg, server lr 1.5": {"name": "fedavgm", "server_momentum": 0.0, "server_learning_rate": 1.5},
    "MCR 0.1": MEAN | {"penalty": 0.1},
    "MCR 0.3": MEAN | {"penalty": 0.3},
    "MCR 1": MEAN | {"penalty": 1.0},
    "PG": PG,
    "PG, kappa 0.4": PG | {"kappa": 0.4},
    "PG, server lr 1.5": PG | {"server_lr": 1.5},
    "PG, norm preserved": PG | {"preserve_norm": True},
    "PG, majority": PG | {"sign_mode": "majority"},
    "PG, majority, norm preserved": PG | {"sign_mode": "majority", "preserve_norm": True},
    "PG, whole model": PG | {"pg_scope": "model"},
    "MCR 0.1 + PG": PG | {"penalty": 0.1},
    "MCR 1 + PG": PG | {"penalty": 1.0},
    "MCR 1 + PG, norm preserved": PG | {"penalty": 1.0, "preserve_norm": True},
    "FedProx": {"name": "fedprox"},
    "SCAFFOLD": {"name": "scaffold"},
    "MOON": {"name": "moon"},
    "FedNova": {"name": "fednova"},
}
ALPHAS = (100.0, 1.0, 0.5, 0.1)
LAST = 5
"""Rounds at the end of a run over which its accuracy is averaged."""

Numbers = dict[str, float | None]
"""Numbers of one run: accuracy (of the last rounds) and round_10 in [0, 1], and the mean test ||p||^2.

If the server has updates, also the norm of the step divided by that of the plain mean, the fraction of the energy in
one direction, and the fraction that is kept.
"""


def train(method: str, alpha: float, seed: int, lr: float, raw: bool) -> Numbers:
    """Train once and return the numbers of the run."""
    setting = find_config("fedld_digits") | {"strategy": METHODS[method], "seed": seed}
    config = resolve(setting, {"data.partition.alpha": alpha, "training.lr": lr})
    data = federate(config.data, config.clients, config.seed)
    if raw:
        data = replace(data, dataset=replace(data.dataset, mean=(0.0,), std=(1.0,)))
    simulation = Simulation(config, data=data)
    engine, state = simulation.engine(), simulation.begin()
    while state.round < config.rounds:
        simulation.step(state, engine)
    engine.close()

    def of(name: str, rounds: slice = slice(None)) -> float | None:
        values = [line["metrics"][name] for line in state.metrics[rounds] if name in line["metrics"]]
        return round(mean(values), 5) if values else None

    model, tests = simulation.server.split(state.tensors), data.dataset
    x = normalize(torch.from_numpy(tests.x_test), torch.tensor(tests.mean), torch.tensor(tests.std))
    p = simulation.server.heads(model, x)["model"].softmax(1)
    return {
        "accuracy": of("global/accuracy", slice(-LAST, None)),
        "round_10": of("global/accuracy", slice(9, 10)),
        "collision": round(float(p.square().sum(1).mean()), 5),
        "norm_ratio": of("train/updates:norm_ratio", slice(1, None)),
        "energy_1": of("train/updates:energy_1"),
        "energy_kept": of("train/updates:energy_kept", slice(1, None)),
    }


class Results:
    """Numbers of runs by method, alpha and seed, stored in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[tuple[str, float, int], Numbers] = {}
        for path in sorted(folder.glob("seed*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                run = json.loads(line)
                self.runs[run["method"], run["alpha"], run["seed"]] = run["numbers"]

    def complete(self, methods: Sequence[str], seeds: Sequence[int], lr: float, raw: bool) -> None:
        """Train the missing runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for seed, alpha, method in itertools.product(seeds, ALPHAS, methods):
            if (method, alpha, seed) in self.runs:
                continue
            begun = time.perf_counter()
            numbers = self.runs[method, alpha, seed] = train(method, alpha, seed, lr, raw)
            run = {"method": method, "alpha": alpha, "seed": seed, "numbers": numbers}
            with (self.folder / f"seed{seed}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            print(f"{method}, alpha {alpha:g}, seed {seed}: {numbers} {time.perf_counter() - begun:.1f} s", flush=True)

    def of(self, method: str, alpha: float, number: str = "accuracy", percent: bool = True) -> list[float]:
        """Return one number per seed, in the seeds' order; accuracies in percent."""
        found = [(seed, self.runs[m, a, seed][number]) for m, a, seed in self.runs if (m, a) == (method, alpha)]
        return [(100 if percent else 1) * value for _, value in sorted(found) if value is not None]

    def gain(self, better: str, worse: str, alpha: float) -> list[float]:
        """Return the difference of two methods in points, for each seed that both have."""
        one, other = (
            {s: numbers["accuracy"] or 0.0 for (m, a, s), numbers in self.runs.items() if (m, a) == (method, alpha)}
            for method in (better, worse)
        )
        return [round(100 * (one[seed] - other[seed]), 2) for seed in sorted(one) if seed in other]

    def table(self, number: str, percent: bool) -> str:
        """Return a Markdown table of mean ± standard deviation over the seeds, a column per alpha."""
        lines = [f"| {number} | " + " | ".join(f"alpha {a:g}" for a in ALPHAS) + " |", "|---" * (1 + len(ALPHAS)) + "|"]
        for method in METHODS:
            values = [self.of(method, alpha, number, percent) for alpha in ALPHAS]
            if any(values):
                digits = 1 if percent else 3
                cells = [
                    f"{mean(v):.{digits}f} ± {stdev(v) if len(v) > 1 else 0:.{digits}f}" if v else "-" for v in values
                ]
                lines.append(f"| {method} | {' | '.join(cells)} |")
        return "\n".join(lines)


def checks(results: Results) -> list[tuple[str, bool, str]]:
    """Return (condition, whether it holds, the numbers), for all conditions whose runs exist."""
    found = []

    def gate(what: str, gains: list[float], least: float, most_lost: int | None = None) -> None:
        if not gains:
            return
        lost = sum(gain <= 0 for gain in gains)
        passed = mean(gains) >= least and (most_lost is None or lost <= most_lost)
        found.append((f"{what}: mean >= {least:+g}", passed, f"{mean(gains):+.2f} {gains}"))

    one_loss = len(results.of(UNWEIGHTED, 0.5)) // 5
    for alpha, least in ((0.5, 0.3), (0.1, 1.0)):
        gate(f"MCR 1 over no MCR, alpha {alpha}", results.gain("MCR 1", UNWEIGHTED, alpha), least, one_loss)
        gate(f"kappa 0.8 over 0.4, alpha {alpha}", results.gain("PG", "PG, kappa 0.4", alpha), 0.0)
        gate(f"MCR 1 + PG over PG, alpha {alpha}", results.gain("MCR 1 + PG", "PG", alpha), 0.0)
    for alpha in ALPHAS:
        if gains := results.gain("MCR 0.1", UNWEIGHTED, alpha):
            off = mean(gains)
            found.append((f"MCR 0.1 within 0.5 of no MCR, alpha {alpha:g}", abs(off) <= 0.5, f"{off:+.2f}"))
    gate("PG within 1.5 of FedAvg, unweighted, alpha 100", results.gain("PG", UNWEIGHTED, 100.0), -1.5)

    def falls(what: str, series: list[list[float]]) -> None:
        if all(series):
            means = [mean(values) for values in series]
            fall = all(a > b for a, b in itertools.pairwise(means))
            found.append((what, fall, " ".join(f"{value:.3f}" for value in means)))

    for alpha in (100.0, 0.5):
        penalties = (UNWEIGHTED, "MCR 0.1", "MCR 0.3", "MCR 1")
        squares = [results.of(method, alpha, "collision", percent=False) for method in penalties]
        falls(f"||p||^2 falls with the penalty, alpha {alpha:g}", squares)
    ratios = [results.of("PG", alpha, "norm_ratio", percent=False) for alpha in (100.0, 0.1)]
    falls("norm ratio of PG falls from alpha 100 to 0.1", ratios)
    return found


def main(
    out: Annotated[Path, typer.Option(help="Folder of the numbers.")],
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0 to 4 by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Methods, repeatable; all by default.")] = None,
    lr: Annotated[float, typer.Option(help="Clients' learning rate; use one folder per value.")] = 0.01,
    raw: Annotated[bool, typer.Option("--raw", help="Pixels in [0, 1], not standardised; use another folder.")] = False,
) -> None:
    """Train missing runs; print tables and checks."""
    results = Results(out)
    results.complete(only or list(METHODS), seeds or range(5), lr, raw)
    for number, percent in (("accuracy", True), ("round_10", True), ("norm_ratio", False), ("energy_1", False)):
        print(f"\n{results.table(number, percent)}")
    failed = False
    for what, passed, numbers in checks(results):
        failed |= not passed
        print(f"{'ok    ' if passed else 'FAILED'} {what}: {numbers}")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
