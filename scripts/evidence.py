"""Common parts of the forgetting experiments: training without a federation, applying a method, a ledger of numbers.

Used by `laf_fashion.py`, `modhifi_fashion.py` and `unlearning_faces.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.models.base import Classifier
from fedsim.randomness import generator, torch_seed
from unlearning.api.registry import load_unlearning
from unlearning.api.view import View
from unlearning.evaluation.model_facts import model_facts
from unlearning.evaluation.report import ModelFacts, Splits
from unlearning.pipeline.apply import Unlearned, options_of, unlearn_with
from unlearning.pipeline.roles import Roles

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
MakeSchedule = Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]


class Ledger:
    """Numbers by table, row, column and seed.

    They are stored in a JSON file at once, so that a run can be continued.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.tables: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        if path is not None and path.exists():
            self.tables = json.loads(path.read_text(encoding="utf-8"))

    def add(self, table: str, row: str, seed: int, values: Mapping[str, float]) -> None:
        """Add the numbers of one row for one seed; print and store them."""
        for column, value in values.items():
            self.tables.setdefault(table, {}).setdefault(row, {}).setdefault(column, {})[str(seed)] = float(value)
        told = "  ".join(f"{column} {value:.2f}" for column, value in values.items())
        print(f"{table}, seed {seed}, {row}: {told}", flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.tables, indent=1) + "\n", encoding="utf-8")

    def has(self, table: str, row: str, seed: int) -> bool:
        """Return whether the row is already known for this seed."""
        columns = self.tables.get(table, {}).get(row, {})
        return any(str(seed) in numbers for numbers in columns.values())

    def of(self, table: str, row: str, column: str) -> list[float]:
        """Return one number per seed."""
        return list(self.tables[table][row][column].values())

    def markdown(self, table: str, decimals: int = 1) -> str:
        """Return a Markdown table of mean ± standard deviation over the seeds."""
        rows = self.tables[table]
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines = [f"| {table} | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
        for name, row in rows.items():
            cells = (_cell(list(row.get(column, {}).values()), decimals) for column in columns)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


def _cell(values: list[float], decimals: int) -> str:
    if not values:
        return "-"
    return f"{mean(values):.{decimals}f}" + (f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else "")


def small_fashion(root: Path | None, num_train: int, seed: int) -> tuple[View, View]:
    """Return `num_train` training and all test images of Fashion-MNIST, averaged to 14 x 14, in [0, 1]."""
    dataset = load_dataset(DataConfig(name="fashionmnist", root=root), seed)
    rows = generator(seed, "subset").permutation(len(dataset.y_train))[:num_train]

    def view(x: np.ndarray, y: np.ndarray) -> View:
        pooled = F.avg_pool2d(torch.from_numpy(x).float(), 2).round().to(torch.uint8)
        return View(pooled, torch.from_numpy(y))

    return view(dataset.x_train[rows], dataset.y_train[rows]), view(dataset.x_test, dataset.y_test)


def rows_of(view: View, rows: Tensor) -> View:
    """Return the samples selected by a mask or by indices."""
    assert view.y is not None
    return replace(view, x=view.x[rows], y=view.y[rows])


def network(features: Callable[[], nn.Module], feature_dim: int, num_classes: int, seed: int) -> Classifier:
    """Return a new classifier; its weights depend only on the seed."""
    torch.manual_seed(torch_seed(seed, "model"))
    return Classifier(features(), feature_dim, num_classes)


def fit(
    model: nn.Module, samples: View, seed: int, optimizer: MakeOptimizer, *, epochs: int, batch_size: int,
    schedule: MakeSchedule | None = None,
) -> float:  # fmt: skip
    """Train a model on all samples, in place; return the seconds it took."""
    begun, rng, steps = time.perf_counter(), generator(seed, "batches"), -(-len(samples) // batch_size) * epochs
    stepper = optimizer(model.parameters())
    rates = None if schedule is None else schedule(stepper, steps)
    model.train()
    for _ in range(epochs):
        for x, y in samples.batches(batch_size, rng):
            assert y is not None
            stepper.zero_grad()
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            stepper.step()
            if rates is not None:
                rates.step()
    model.eval()
    return time.perf_counter() - begun


def forgotten(name: str, model: Classifier, roles: Roles, seed: int, **options: object) -> Unlearned:
    """Apply a method of `unlearning/` to a copy of the model, with only the views that it needs."""
    method = load_unlearning(name)
    return unlearn_with(method, options_of(method, options), model, roles, seed)


@torch.no_grad()
def logits(model: Classifier, view: View) -> np.ndarray:
    """Return the logits (N, C) of all samples, in evaluation mode."""
    model.eval()
    return np.concatenate([model(x).double().cpu().numpy() for x, _ in view.batches(500, None)])


def facts(model: Classifier, roles: Roles, seed: int) -> ModelFacts:
    """Return accuracies, attacks and flags; models with the same seed are attacked on the same samples."""
    labels: Splits[Any] = Splits(*(view.y.numpy() for view in roles.views if view.y is not None))
    outputs: Splits[Any] = Splits(*(logits(model, view) for view in roles.views))
    return model_facts(labels, outputs, generator(seed, "attacks"), floors=False)
