"""Forgetting people in a face classifier that learns their age: perturb-and-repair methods compared with fine-tuning.

Run `python scripts/unlearning_faces.py --out unlearning_faces.json`. It takes about 6 minutes on one CPU core. Rows
that `--out` already has are kept. There are 60 procedural people with 12 images each; 18 of them are forgotten. Another
18 people are never seen and serve the attacks, and 30 are the test set. MIA is the accuracy of a logistic attack on the
loss. NoMUS is that of "Towards Machine Unlearning Benchmarks" (arXiv:2311.02240). Relative time is the time of the
method divided by that of retraining.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from evidence import Ledger, facts, fit, forgotten, logits, network
from faces import AGES, draw_faces
from torch import nn

from fedsim.models.base import Classifier
from unlearning.api.view import View
from unlearning.evaluation.scores import losses
from unlearning.pipeline.references import constant_predictor
from unlearning.pipeline.roles import Roles

FORGET, RETAIN, UNSEEN, TEST = range(18), range(18, 60), range(60, 78), range(78, 108)
IMAGES = 12
ASCENT_STEPS = 400
METHODS = (
    "finetune", "cf_k", "eu_k", "ct", "msg", "not", "neggrad", "neggrad_plus", "random_labels", "salun", "scrub",
    "bad_teacher", "ssd", "l1_sparse", "laf",
)  # fmt: skip
"""Methods with their defaults."""


def features() -> nn.Module:
    """Return three convolutions with batch norm, each followed by 2x2 pooling: 1,536 features."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten())


def new_model(samples: View, seed: int) -> tuple[Classifier, float]:
    """Return a model trained on the samples, and the training time in seconds."""
    model = network(features, 1536, AGES, seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR
    seconds = fit(model, samples, seed, partial(torch.optim.Adam, lr=2e-3), epochs=40, batch_size=64, schedule=schedule)
    return model, seconds


def run(seed: int, ledger: Ledger) -> None:
    """Add all rows of one seed."""

    def view(people: range) -> View:
        x, age, _ = draw_faces(seed, people, IMAGES)
        return View(torch.from_numpy(x), torch.from_numpy(age), (0.5,) * 3, (0.25,) * 3)

    roles = Roles(view(FORGET), view(RETAIN), view(TEST), view(UNSEEN), view(UNSEEN))
    oracle, oracle_seconds = new_model(roles.retain, seed)
    reference = facts(oracle, roles, seed).values["mia_logistic"]

    def add(row: str, model: Classifier, seconds: float) -> dict[str, float]:
        told = facts(model, roles, seed)
        names = {
            "forget": "accuracy_forget", "retain": "accuracy_retain", "test": "accuracy_test",
            "unseen": "accuracy_unseen", "MIA": "mia_logistic", "NoMUS": "nomus",
        }  # fmt: skip
        values = {column: told.values[name] for column, name in names.items()}
        values |= {"MIA gap": abs(values["MIA"] - reference), "loss": told.values["loss_forget"]}
        values["over-forgotten"] = float(told.over_forgotten is not None and told.over_forgotten.flag)
        values["collapsed"] = float(told.collapsed.flag)
        ledger.add("faces", row, seed, values | {"relative time": seconds / oracle_seconds})
        return values

    add("retrain", oracle, oracle_seconds)
    assert roles.retain.y is not None
    assert roles.forget.y is not None
    everything = View(
        torch.cat([roles.retain.x, roles.forget.x]), torch.cat([roles.retain.y, roles.forget.y]),
        roles.retain.mean, roles.retain.std,
    )  # fmt: skip
    original, seconds = new_model(everything, seed)
    add("original", original, seconds)
    add("constant", constant_predictor(original, roles.retain), float("nan"))
    add_ascent(original, roles, seed, add)
    for name in METHODS:
        if not ledger.has("faces", name, seed):
            result = forgotten(name, original, roles, seed)
            add(name, result.model, result.seconds)


def add_ascent(original: Classifier, roles: Roles, seed: int, add: Any) -> None:
    """Add plain gradient ascent to a forget loss between 2 ln C and 2.5 ln C: the over-forgotten flag must be raised.

    The loss of a remembered set rises slowly, then suddenly. A step that is too large is undone and halved.
    """
    model, lr, seconds = original, 3e-3, 0.0
    assert roles.forget.y is not None
    for _ in range(ASCENT_STEPS):
        step = forgotten(
            "neggrad", model, roles, seed,
            epochs=1, batch_size=len(roles.forget), lr=lr, momentum=0.0, ceiling=100.0,
        )  # fmt: skip
        seconds += step.seconds
        loss = losses(logits(step.model, roles.forget), roles.forget.y.numpy()).mean() / math.log(AGES)
        if loss > 2.5:
            lr /= 2
            continue
        model = step.model
        if loss > 2:
            break
    add("ascent, no cap, until loss > 2 ln C", model, seconds)


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, forget, and print the table."""
    ledger = Ledger(out)
    for seed in seeds or [0, 1, 2]:
        run(seed, ledger)
    print(f"\n{ledger.markdown('faces', 2)}")


if __name__ == "__main__":
    typer.run(main)
