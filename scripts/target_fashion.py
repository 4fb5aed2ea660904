"""TARGET and its rivals on Fashion-MNIST in two stages of five classes.

Run `python scripts/target_fashion.py --data-root FOLDER`. It takes about half an hour on one CPU core. Finished runs in
`--out` are kept, and an interrupted one continues. The setting is the preset target_fashion on images of 16 x 16
(padded to 32 x 32, then averaged), with 400 training and 100 test images per class. With `--tune` the script tries
strengths of the penalties, on seed 0 only; the table uses other seeds.

Columns are percentages. `old` and `new` are the final accuracies on the classes of the first and the second stage. F is
forgetting as in arXiv:2303.06937, by class from its best round. F(ends) is forgetting by stage from the end of the
first.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import typer

import fedsim
from fedsim.atomic import write_atomically
from fedsim.config.resolve import find_config
from fedsim.data import DataConfig, load_dataset
from fedsim.runs.folder import RunFolder

METHODS: dict[str, dict[str, Any]] = {
    "TARGET": {},
    "fine-tuning": {"strategy": {"name": "fedlwf", "penalty": 0}},
    "FedLwF": {"strategy": {"name": "fedlwf", "penalty": 3}},
    "uniform noise": {"strategy.images": "noise"},
    "class means": {"strategy": {"name": "class_means"}},
    "TARGET, no statistics": {"strategy.synthesis.weight_statistics": 0},
    "mixed new images": {"strategy": {"name": "fedlwf", "penalty": 5, "mixed": True}},
    "FedEWC": {"strategy": {"name": "fedewc", "penalty": 10}},
    # As many real samples in total as there are synthetic images, and a tenth of that number.
    "rehearsal, 1920": {"strategy": {"name": "fedavg"}, "data.stages.keep": 480},
    "rehearsal, 192": {"strategy": {"name": "fedavg"}, "data.stages.keep": 48},
    "FedAvg": {"strategy": {"name": "fedavg"}},
    "TARGET, no critic": {"strategy.synthesis.critic_steps": 0},
    "TARGET, boundary where they agree": {"strategy.synthesis.boundary": "agree"},
    "TARGET, distillation 25": {"strategy.distillation": 25},
}
TUNED = {
    **{f"FedLwF {value:g}": {"strategy": {"name": "fedlwf", "penalty": value}} for value in (1, 3, 10)},
    **{f"FedEWC {value:g}": {"strategy": {"name": "fedewc", "penalty": value}} for value in (1, 10, 30)},
}
COLUMNS = {
    "Acc": "global/accuracy",
    "old": "stages/accuracy_old",
    "new": "stages/accuracy_new",
    "F": "stages/forgetting",
    "F(ends)": "stages/forgetting_ends",
}
GATES = {"fine-tuning": 4.0, "FedLwF": 1.5, "uniform noise": 10.0, "TARGET, no statistics": 4.0}
"""Required advantage of TARGET over each rival, in points."""


def small_images(root: Path | None, folder: Path) -> Path:
    """Return an archive of Fashion-MNIST at 16 x 16 with 400 training and 100 test images a class."""
    path = folder / "fashion16.npz"
    if not path.exists():
        data = load_dataset(DataConfig(name="fashionmnist", root=root), seed=0)
        parts: dict[str, Any] = {}
        for part, x, y, count in (
            ("train", data.x_train, data.y_train, 400), ("test", data.x_test, data.y_test, 100),
        ):  # fmt: skip
            rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:count] for c in range(10)]))
            padded = np.pad(x[rows][:, 0].astype(np.float64), ((0, 0), (2, 2), (2, 2)))
            pooled = padded.reshape(len(rows), 16, 2, 16, 2).mean((2, 4))
            parts |= {f"x_{part}": np.rint(pooled).astype(np.uint8), f"y_{part}": y[rows]}
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **parts)
    return path


def measured(name: str, changes: dict[str, Any], seed: int, archive: Path, out: Path) -> dict[str, float]:
    """Return the final metrics of a run; start or continue it if it is not finished."""
    folder = out / f"{''.join(c if c.isalnum() else '_' for c in name)}-{seed}"
    if not folder.exists():
        where = {"name": folder.name, "out": str(out), "data.name": f"npz:{archive}", "seed": seed}
        base = find_config("target_fashion")
        if "strategy" in changes:
            base = {key: value for key, value in base.items() if key != "strategy"}
        fedsim.run(base, overrides={**changes, **where})
    elif RunFolder.open(folder).status != "finished":
        fedsim.resume(folder)
    run = RunFolder.open(folder)
    seconds = {"seconds": float(run.summary.wall_time_s or 0) if run.summary else 0.0}
    return run.final_metrics | seconds


def line(name: str, runs: list[dict[str, float]]) -> str:
    """Return a row of the table: means and standard deviations over seeds."""
    cells = []
    for metric in COLUMNS.values():
        values = [100 * run[metric] for run in runs]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.1f}{spread}")
    critic = [100 * run["train/critic_accuracy"] for run in runs if "train/critic_accuracy" in run]
    cells += [f"{mean(critic):.1f}" if critic else "", f"{mean(run['seconds'] for run in runs):.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main(
    data_root: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs, table and numbers.")] = Path("target_fashion"),
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 2, 3 and 4 by default.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Of both stages.")] = 20,
    tune: Annotated[bool, typer.Option(help="Try penalties on seed 0; no table.")] = False,
) -> None:
    """Run missing runs, print the table, and check the expected differences."""
    archive = small_images(data_root, out)
    plans, seeds = (TUNED, [0]) if tune else (METHODS, seeds or [2, 3, 4])
    results: dict[str, list[dict[str, float]]] = {}
    for name in methods or plans:
        changes = {"rounds": rounds, **plans[name]}
        results[name] = [measured(name, changes, seed, archive, out) for seed in seeds]
        print(line(name, results[name]), flush=True)
    print(f"\n| | {' | '.join(COLUMNS)} | critic | s |\n|{'---|' * (len(COLUMNS) + 3)}")
    for name in sorted(results, key=lambda name: -mean(run["global/accuracy"] for run in results[name])):
        print(line(name, results[name]))
    write_atomically(
        out / ("tuning.json" if tune else "results.json"), json.dumps(results, indent=1).encode(), folders=True
    )
    accuracy = {name: 100 * mean(run["global/accuracy"] for run in runs) for name, runs in results.items()}
    for rival, margin in GATES.items():
        if {"TARGET", rival} <= accuracy.keys():
            gain = accuracy["TARGET"] - accuracy[rival]
            verdict = "as expected" if gain >= margin else "less than expected"
            print(f"TARGET over {rival}: {gain:+.1f} points, {verdict} ({margin:+g})")


if __name__ == "__main__":
    typer.run(main)
