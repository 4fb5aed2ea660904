"""Forget a client with a backdoor: FedEraser, retraining from a checkpoint and others, compared with retraining.

Run `python scripts/federated_unlearning.py --seeds 0 --seeds 1 --seeds 2 --out federated_unlearning.jsonl`. Seeds are
added to the file. Without `--seeds` the script only prints the table of the file. It exits with 1 if a check fails.

Digits are distributed equally among 8 clients. Client 0 also has copies of its samples of the other digits, with four
white pixels in the corner and the label 0. Trigger success is the fraction of test images of other classes that are
classified as 0 once they have the four pixels.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import torch
import typer

import fedsim
from fedsim.data.config import DataConfig
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.pipeline.outcome import Outcome
from unlearning.pipeline.runner import unlearn

CLIENTS, LEAVING, TARGET = 8, 0, 0
COHORTS = {"all 8 clients": None, "4 of 8 clients": 4}
METHODS: dict[str, dict[str, Any]] = {
    "federaser": {},
    "retrain_checkpoint": {},
    "fedaccum": {},
    "not_federated": {},
    "federaser, layer": {"scale": "layer"},
    "fedaccum, subtraction": {"renormalize": False},
}
SHOWN = ("trigger", "accuracy", "rounds", "clients_woken", "history_mb", "seconds")
Values = dict[str, dict[str, dict[str, float]]]  # by cohort, model and metric


def triggered(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return images (N, 1, 8, 8) with four white pixels in the lower right corner."""
    x = x.copy()
    x[:, :, -2:, -2:] = 255
    return x


def write_data(path: Path, seed: int) -> Dataset:
    """Write the training samples of all clients, with the backdoor, and the clean test set; return the digits."""
    digits = load_dataset(DataConfig(), seed)
    owners = generator(seed, "backdoor-clients").permutation(len(digits.y_train)) % CLIENTS
    planted = (owners == LEAVING) & (digits.y_train != TARGET)
    np.savez_compressed(
        path,
        x_train=np.concatenate([digits.x_train, triggered(digits.x_train[planted])]),
        y_train=np.concatenate([digits.y_train, np.full(planted.sum(), TARGET)]),
        identity_train=np.concatenate([owners, np.full(planted.sum(), LEAVING)]),
        x_test=digits.x_test, y_test=digits.y_test,
    )  # fmt: skip
    return digits


@torch.no_grad()
def measure(model: Classifier, like: View, digits: Dataset) -> dict[str, float]:
    """Return trigger success and clean accuracy on the test set."""

    def predict(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        view = View(torch.from_numpy(x), None, like.mean, like.std, like.dtype)
        return model.eval()(view.all()[0]).argmax(1).numpy()  # type: ignore[no-any-return]

    others = digits.y_test != TARGET
    return {
        "trigger": float((predict(triggered(digits.x_test[others])) == TARGET).mean()),
        "accuracy": float((predict(digits.x_test) == digits.y_test).mean()),
    }


def run_seed(seed: int, folder: Path) -> Values:
    """Train, forget with every method, and measure."""
    values: Values = {}
    digits = write_data(folder / "backdoor.npz", seed)
    for number, (setting, cohort) in enumerate(COHORTS.items()):
        recipe = {
            "data": {"name": f"npz:{folder / 'backdoor.npz'}", "partition": "natural"},
            "clients": CLIENTS, "cohort": cohort, "rounds": 20, "seed": seed, "model": "cnn", "eval_every": 20,
            "training": {"epochs": 4, "lr": 0.05, "vectorize": "always"},
            "history": {"keep": "updates"}, "out": str(folder), "name": f"cohort-{number}",
        }  # fmt: skip
        run = fedsim.run(recipe).folder
        sparse = fedsim.run(recipe, overrides={"history.every": 2, "name": f"cohort-{number}-every-2"}).folder
        found: dict[str, dict[str, float]] = {}

        def add(name: str, outcome: Outcome, row_name: str, found: dict[str, dict[str, float]] = found) -> None:
            row = next(row for row in outcome.comparison.rows if row.name == row_name)
            model = outcome.firsts[row_name][0]
            like = View(torch.empty(0), None, *_moments(digits, folder))
            found[name] = measure(model, like, digits) | {n: row.mean(n) for n in SHOWN if n in row.metrics}

        for name, options in METHODS.items():
            method = name.partition(",")[0]
            compare = "retrain" if name == "federaser" else None
            outcome = unlearn(run, [method], f"client={LEAVING}", compare=compare, overrides=options)
            if compare:
                add("original", outcome, "original")
                add("retrained from scratch", outcome, "oracle")
                add("fine-tuned centrally", outcome, "finetune")
            add(name, outcome, method)
        add("federaser, every 2", unlearn(sparse, ["federaser"], f"client={LEAVING}"), "federaser")
        values[setting] = found
    return values


def _moments(digits: Dataset, folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation as the run computed them from its own training samples."""
    data = load_dataset(DataConfig(name=f"npz:{folder / 'backdoor.npz'}"), 0)
    return data.mean, data.std


def checks(seeds: list[Values], setting: str) -> dict[str, bool]:
    """Return the conditions: most must hold for every seed, those that compare accuracies in the mean."""

    def all_of(name: str, number: str) -> list[float]:
        return [values[setting][name][number] for values in seeds]

    oracle = mean(all_of("retrained from scratch", "accuracy"))
    out = {"trigger success before >= .8": min(all_of("original", "trigger")) >= 0.8}
    for name in ("federaser", "retrain_checkpoint"):
        out[f"trigger success after {name} <= .2"] = max(all_of(name, "trigger")) <= 0.2
        out[f"accuracy of {name} within .05 of retraining"] = abs(mean(all_of(name, "accuracy")) - oracle) <= 0.05
    for name in ("fedaccum", "fedaccum, subtraction"):
        out[f"{name} less accurate than federaser"] = mean(all_of(name, "accuracy")) < mean(
            all_of("federaser", "accuracy")
        )
    return out


def main(
    out: Annotated[Path, typer.Option(help="JSON lines, one per seed; new seeds are appended.")],
    seeds: Annotated[list[int] | None, typer.Option(help="Seeds to run; repeatable.")] = None,
) -> None:
    """Run seeds, or print the table of the file."""
    for seed in seeds or []:
        with tempfile.TemporaryDirectory() as folder:
            values = run_seed(seed, Path(folder))
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": seed, "values": values}) + "\n")
    known = [json.loads(line)["values"] for line in out.read_text(encoding="utf-8").splitlines()]
    failed = False
    for setting in COHORTS:
        print(f"\n{setting}, {len(known)} seeds\n\n| model | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
        columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for values in known:
            for name, numbers in values[setting].items():
                for number, value in numbers.items():
                    columns[name][number].append(value)
        for name, numbers in columns.items():
            cells = [
                f"{mean(v):.3g} ± {stdev(v) if len(v) > 1 else 0:.2g}" if (v := numbers.get(number)) else "-"
                for number in SHOWN
            ]
            print(f"| {name} | {' | '.join(cells)} |")
        for what, passed in checks(known, setting).items():
            failed |= not passed
            print(f"{'ok    ' if passed else 'FAILED'} {what}")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
