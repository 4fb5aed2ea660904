"""LAF on a small Fashion-MNIST: class, random-data and noisy-label forgetting, with baselines and controls.

Run `python scripts/laf_fashion.py --data-root FOLDER --out laf_fashion.json`. It takes about 15 minutes on one CPU
core. Rows that `--out` already has are kept. Data: 5,000 training images of 14 x 14. The network, the three tasks and
the metrics are those of "Label-Agnostic Forgetting" (arXiv:2404.00506). The paper's two linear layers without an
activation between them are one layer here. All columns are percentages:

- Train_r, Train_f: accuracy on kept and on forgotten training samples;
- Test_r, Test_f: accuracy on test images of kept and of forgotten classes;
- MIA: AUC of distinguishing forgotten from test images by their loss;
- gap: mean distance to the oracle in Train_r, Train_f and Test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from evidence import Ledger, facts, fit, forgotten, network, rows_of, small_fashion
from torch import nn

from fedsim.models.base import Classifier
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.pipeline.roles import Roles

NUM_TRAIN = NUM_TEST = 5_000
LAF: dict[str, dict[str, Any]] = {
    "class": {},
    "data": {"lr_unlearn": 3e-4, "lr_align": 1.2e-3, "temperature": 5.0},
    "noise": {},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "LAF without L_UE": {"lr_unlearn": 0},
    "LAF without L_RA": {"lr_align": 0},
    "LAF without repulsion (τ = 1e6)": {"temperature": 1e6},
}
NEGGRAD_RATES = (3e-5, 1e-4, 3e-4, 1e-3)


def features() -> nn.Module:
    """Return the paper's extractor for 14 x 14 images; its 256 features are linear."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(288, 256)),
    )


def make_roles(task: str, train: View, test: View, seed: int) -> Roles:
    """Return the roles. Forgotten are class 0, or 40 % of each class 5-9, or the 60 % of each class 0-4 mislabelled."""
    assert train.y is not None
    y, rng = train.y.numpy().copy(), generator(seed, task)
    chosen = np.zeros(len(y), dtype=bool)
    if task == "class":
        chosen = y == 0
    else:
        classes, share = (range(5, 10), 0.4) if task == "data" else (range(5), 0.6)
        for label in classes:
            rows = rng.permutation(np.flatnonzero(y == label))
            chosen[rows[: round(share * len(rows))]] = True
        if task == "noise":
            y[chosen] = (y[chosen] + rng.integers(1, 10, chosen.sum())) % 10
    labelled = View(train.x, torch.from_numpy(y))
    return Roles(
        rows_of(labelled, torch.from_numpy(chosen)), rows_of(labelled, torch.from_numpy(~chosen)), test, test, test
    )


def new_model(samples: View, seed: int) -> tuple[Classifier, float]:
    """Return a model trained on the samples, and the training time in seconds.

    It is trained with the paper's classifier: two linear layers without an activation, which are then merged into one.
    """
    model = network(features, 256, 10, seed)
    layers = nn.Sequential(nn.Linear(256, 128), nn.Linear(128, 10))
    seconds = fit(
        nn.Sequential(model.features, layers),
        samples,
        seed,
        lambda p: torch.optim.Adam(p, 1e-3),
        epochs=12,
        batch_size=64,
    )
    with torch.no_grad():
        first, second = layers[0].get_parameter("weight"), layers[1].get_parameter("weight")
        model.classifier.weight.copy_(second @ first)
        model.classifier.bias.copy_(layers(torch.zeros(1, 256))[0])
    return model, seconds


def run(task: str, seed: int, root: Path | None, ledger: Ledger) -> None:
    """Add all rows of one task under one seed."""
    train, test = small_fashion(root, NUM_TRAIN, seed)
    test = rows_of(test, torch.arange(NUM_TEST))
    roles = make_roles(task, train, test, seed)
    assert roles.forget.y is not None
    assert roles.retain.y is not None
    everything = View(torch.cat([roles.retain.x, roles.forget.x]), torch.cat([roles.retain.y, roles.forget.y]))
    forgotten_classes = range(1) if task == "class" else range(5, 10) if task == "data" else range(5)
    target: dict[str, float] = {}

    def add(row: str, model: Classifier, seconds: float) -> None:
        told = facts(model, roles, seed)
        names = {"Train_r": "accuracy_retain", "Train_f": "accuracy_forget", "Test": "accuracy_test", "MIA": "mia_auc"}
        values = {column: 100 * told.values[name] for column, name in names.items()}
        per_class = told.per_class["test"]
        for column, inside in (("Test_r", False), ("Test_f", True)):
            values[column] = 100 * float(
                np.mean([a for c, a in enumerate(per_class) if (c in forgotten_classes) == inside])
            )
        if row == "retrain":
            target.update(values)
        values["gap"] = float(np.mean([abs(values[c] - target[c]) for c in ("Train_r", "Train_f", "Test")]))
        ledger.add(task, row, seed, values | {"seconds": seconds})

    oracle, oracle_seconds = new_model(roles.retain, seed)
    add("retrain", oracle, oracle_seconds)
    original, seconds = new_model(everything, seed)
    add("original", original, seconds)

    def method(row: str, name: str, **options: Any) -> None:
        if ledger.has(task, row, seed):
            return
        result = forgotten(name, original, roles, seed, **options)
        add(row, result.model, result.seconds)

    method("fine-tuning", "finetune")
    for lr in NEGGRAD_RATES:
        method(f"NegGrad, lr {lr:g}", "neggrad", lr=lr, epochs=5)
    method("bad teacher", "bad_teacher")
    method("SCRUB", "scrub")
    if not ledger.has(task, "LAF+R", seed):
        laf = forgotten("laf", original, roles, seed, **LAF[task])
        repaired = forgotten("laf_r", laf.model, roles, seed, epochs=0)
        add("LAF", laf.model, laf.seconds)
        add("LAF+R", repaired.model, laf.seconds + repaired.seconds)
    method("R only (control)", "laf_r", epochs=0)
    for row, options in ABLATIONS.items() if task != "noise" else ():
        method(row, "laf", **LAF[task] | options)


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Repeatable: class, data, noise; all by default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, forget, and print a table per task."""
    ledger = Ledger(out)
    for task in tasks or list(LAF):
        for seed in seeds or [0, 1, 2]:
            run(task, seed, data_root, ledger)
    for task in ledger.tables:
        print(f"\n{ledger.markdown(task)}")


if __name__ == "__main__":
    typer.run(main)
