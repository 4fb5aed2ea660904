"""ModHiFi-U on a small Fashion-MNIST: each class is forgotten once, with controls, ablations and an attack.

Run `python scripts/modhifi_fashion.py --data-root FOLDER --out modhifi_fashion.json`. It takes about 10 minutes on one
CPU core. Rows that `--out` already has are kept. Data: 5,000 training and 2,000 test images of 14 x 14. Models: a
network of four convolutions with batch norm, the same network with twice the width, and a small vision transformer.
Scores are computed from 200 training images of the class (arXiv:2511.19566). Columns: the accuracy in percent on test
images of the forgotten class and of the other classes, the mean over the ten choices of the class.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from evidence import Ledger, fit, forgotten, logits, network, rows_of, small_fashion
from torch import Tensor, nn

from fedsim.models.base import Classifier
from fedsim.models.fidelity import (
    component_sums,
    edit_components,
    editable_layers,
    singleton_fidelity,
    top_components,
)
from fedsim.models.vit import vit
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.evaluation.batch_norm import re_estimated
from unlearning.pipeline.roles import Roles

NUM_TRAIN, NUM_TEST, NUM_STATISTICS, NUM_KEPT = 5_000, 2_000, 200, 1_000

Per = Literal["output", "layer"]
Score = Callable[[int, str], Tensor]
"""(class, layer name) -> (C, I); high values mark the components to edit."""


def convolutions(width: int) -> nn.Module:
    """Return four convolutions with batch norm, pooled to 48 features times the width."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((1, 16 * width, 32 * width, 32 * width, 48 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if inputs == 1 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def train_convolutions(samples: View, seed: int, width: int = 1) -> tuple[Classifier, float]:
    """Return the trained network, and the training time in seconds."""
    model = network(partial(convolutions, width), 48 * width, 10, seed)
    schedule = partial(one_cycle, rate=0.1)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    seconds = fit(model, samples, seed, sgd, epochs=7, batch_size=128, schedule=schedule)
    return model, seconds


def train_transformer(samples: View, seed: int) -> tuple[Classifier, float]:
    """Return the trained transformer, and the training time in seconds."""
    model = network(lambda: vit((1, 14, 14), width=32)[0], 32, 10, seed)
    schedule = partial(one_cycle, rate=3e-3)
    seconds = fit(model, samples, seed, torch.optim.AdamW, epochs=12, batch_size=128, schedule=schedule)
    return model, seconds


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, rate: float) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule that rises to `rate` and then falls to 0."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, cycle_momentum=False)


class Scores:
    """Scores that choose the components to edit, from the sums over each class's images."""

    def __init__(self, model: Classifier, views: list[View]) -> None:
        self.layers = editable_layers(model)
        self.sums = [component_sums(model, self.layers, (x for x, _ in view.batches(64, None))) for view in views]

    def fidelity(self, label: int, layer: str, *, centred: bool = True) -> Tensor:
        """Return s of the class; by default the components are centred."""
        return singleton_fidelity(self.sums[label][layer], centred=centred)

    def least(self, label: int, layer: str) -> Tensor:
        """Return -s of the class."""
        return -self.fidelity(label, layer)

    def factor(self, label: int, layer: str) -> Tensor:
        """Return only the best factor of the class, α = R / q."""
        sums = self.sums[label][layer]
        return torch.where(sums.q > 1e-12 * sums.q.max(), sums.r / sums.q, 0)

    def others(self, label: int, layer: str) -> Tensor:
        """Return s of all other classes' images together."""
        rest = [sums[layer] for other, sums in enumerate(self.sums) if other != label]
        return singleton_fidelity(sum(rest[1:], rest[0]), centred=True)

    def contrast(self, label: int, layer: str, *, centred: bool = True) -> Tensor:
        """Return s of the class minus the mean s of the other classes."""
        scores = [self.fidelity(other, layer, centred=centred) for other in range(len(self.sums))]
        rest = [score for other, score in enumerate(scores) if other != label]
        return scores[label] - torch.stack(rest).mean(0)


def edited(model: Classifier, score: Score, label: int, num_layers: int, share: float, per: Per) -> Classifier:
    """Return a copy without the components with the highest scores, in the last layers."""
    model = copy.deepcopy(model)
    for name, layer in list(editable_layers(model).items())[-num_layers:]:
        edit_components(layer, top_components(score(label, name), share, per), "zero")
    return model


class Contest:
    """One network and all its edits."""

    def __init__(self, model: Classifier, train: View, test: View, seed: int) -> None:
        assert train.y is not None
        self.model, self.test, self.seed = model, test, seed
        of_class = [rows_of(train, torch.nonzero(train.y == label)[:NUM_STATISTICS, 0]) for label in range(10)]
        self.roles = [Roles(view, view, test, test, test) for view in of_class]
        self.kept = [rows_of(train, torch.nonzero(train.y != label)[:NUM_KEPT, 0]) for label in range(10)]
        self.scores = Scores(model, of_class)
        self.found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, row: str, label: int, model: Classifier, seconds: float = float("nan")) -> None:
        """Measure one edit."""
        assert self.test.y is not None
        labels = self.test.y.numpy()
        right = logits(model, self.test).argmax(1) == labels
        values = {"forget": 100 * right[labels == label].mean(), "remain": 100 * right[labels != label].mean()}
        values |= {"seconds": seconds} if seconds == seconds else {}
        for column, value in values.items():
            self.found[row][column].append(value)

    def method(self, row: str, label: int, **options: object) -> Classifier:
        """Add the result of the method itself."""
        result = forgotten("modhifi_u", self.model, self.roles[label], self.seed, **options)
        self.add(row, label, result.model, result.seconds)
        return result.model

    def random(self, label: int, layer: str) -> Tensor:
        """Return random scores, as a control."""
        shape = self.scores.fidelity(label, layer).shape
        return torch.from_numpy(generator(self.seed, f"random {layer}", label).random(tuple(shape)))


def run_convolutions(contest: Contest) -> None:
    """Add all rows of the network with batch norm."""
    model, scores = contest.model, contest.scores
    per: Per
    for label in range(10):
        contest.add("base", label, model)
        for where, layers, share, per in (
            ("last conv", 1, 0.03, "layer"), ("last conv", 1, 0.06, "layer"), ("last conv", 1, 0.10, "layer"),
            ("last two convs", 2, 0.03, "layer"), ("all but the first, per output", 3, 0.10, "output"),
        ):  # fmt: skip
            head = f"{where}, p = {share:g}"
            result = contest.method(f"{head}: ModHiFi-U", label, layers=layers, share=share, per=per)
            rivals: dict[str, Score] = {
                "random components": contest.random,
                "s not centred": partial(scores.fidelity, centred=False),
                "contrast with other classes": scores.contrast,
                "contrast, not centred": partial(scores.contrast, centred=False),
            }
            if layers == 3:
                rivals |= {
                    "least s": scores.least, "s of the other classes": scores.others, "α": scores.factor,
                }  # fmt: skip
            for name, score in rivals.items():
                contest.add(f"{head}: {name}", label, edited(model, score, label, layers, share, per))
            if layers == 1 and share == 0.06:
                batches = (x for x, _ in contest.kept[label].batches(250, None))
                contest.add(f"{head}: ModHiFi-U, batch norm re-estimated", label, re_estimated(result, batches))


def run_transformer(contest: Contest) -> None:
    """Add all rows of the transformer; the second layers of its MLPs are edited."""
    for label in range(10):
        contest.add("base", label, contest.model)
        for layers, share in ((1, 0.2), (2, 0.2), (4, 0.06), (4, 0.2)):
            for edit in ("negate", "zero"):
                contest.method(f"last {layers}, p = {share:g}: {edit}", label, layers=layers, share=share, edit=edit)


def run(seed: int, root: Path | None, ledger: Ledger, networks: list[str]) -> None:
    """Add everything of one seed."""
    train, test = (replace(view, mean=(0.286,), std=(0.353,)) for view in small_fashion(root, NUM_TRAIN, seed))
    test = rows_of(test, torch.arange(NUM_TEST))
    assert train.y is not None
    for name in networks:
        if ledger.has(name, "base", seed):  # all rows of a network are added together, at the end
            continue
        fit_network, run_edits = NETWORKS[name]
        model, _ = fit_network(train, seed)
        contest = Contest(model, train, test, seed)
        if run_edits is run_convolutions:
            contest.add("retrained without class 0", 0, *fit_network(rows_of(train, train.y != 0), seed))
        run_edits(contest)
        for row, columns in contest.found.items():
            ledger.add(name, row, seed, {column: float(np.mean(values)) for column, values in columns.items()})


NETWORKS: dict[str, tuple[Callable[..., tuple[Classifier, float]], Callable[[Contest], None]]] = {
    "convolutions": (train_convolutions, run_convolutions),
    "wide convolutions": (partial(train_convolutions, width=2), run_convolutions),
    "transformer": (train_transformer, run_transformer),
}


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    networks: Annotated[
        list[str] | None, typer.Option(help="Repeatable: convolutions, wide convolutions, transformer; all.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, edit, and print a table per network."""
    ledger = Ledger(out)
    for seed in seeds or [0, 1, 2]:
        run(seed, data_root, ledger, networks or list(NETWORKS))
    for network_name in ledger.tables:
        print(f"\n{ledger.markdown(network_name)}")


if __name__ == "__main__":
    typer.run(main)
