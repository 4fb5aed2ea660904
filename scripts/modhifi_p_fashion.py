"""Prune a network on a small Fashion-MNIST to a fraction of its FLOPs without fine-tuning: orders and corrections.

Run `python scripts/modhifi_p_fashion.py --data-root FOLDER --out modhifi_p_fashion.json`. It takes about 2 minutes a
seed on one CPU core. Rows that `--out` already has are kept. Data: 5,000 training and 2,000 test images of 14 x 14.
Model: four convolutions with batch norm. Moments and batch norm are computed from 1,000 training images without labels
(arXiv:2511.19566). Columns: test accuracy in percent before and after; FLOPs and parameters as fractions of the
original's; the time of a pass over 256 images as a fraction of the original's. Times are medians; the models take
turns.
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from evidence import Ledger, logits, rows_of, small_fashion
from modhifi_fashion import NUM_TEST, NUM_TRAIN, train_convolutions
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.models.channels import cost, layer_positions
from fedsim.randomness import generator
from unlearning.api.pruner import load_pruner
from unlearning.api.view import View
from unlearning.parts.cutting import Corrections, Target, cut
from unlearning.parts.layer_sums import ask_here

SHAPE = (1, 14, 14)
NUM_MOMENTS = 1_000
ORDERS: dict[str, tuple[str, dict[str, str]]] = {
    "modhifi_p": ("modhifi_p", {}), "modhifi_p, per layer": ("modhifi_p", {"per": "layer"}),
    "l1": ("l1", {}), "l2": ("l2", {}), "random": ("random", {}),
}  # fmt: skip


def accuracy(model: Classifier, test: View) -> float:
    """Return the accuracy in percent."""
    assert test.y is not None
    return float(100 * (logits(model, test).argmax(1) == test.y.numpy()).mean())


def seconds(models: list[Classifier], x: Tensor, repeats: int = 15) -> list[float]:
    """Return each model's median time of one pass in seconds; the models take turns."""
    taken: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(repeats):
            for number, model in enumerate(models):
                begun = time.perf_counter()
                model(x)
                taken[number].append(time.perf_counter() - begun)
    return [float(np.median(each[1:])) for each in taken]


def run(seed: int, root: Path | None, ledger: Ledger, share: float, cuts: int) -> None:
    """Add every order and correction of one seed."""
    train, test = small_fashion(root, NUM_TRAIN, seed)
    test = rows_of(test, torch.arange(NUM_TEST))
    model, _ = train_convolutions(train, seed)
    model.eval()
    table = f"{share:g} of the FLOPs in {cuts} cuts"
    positions = layer_positions(model, SHAPE)
    whole, base = cost(model, positions), accuracy(model, test)
    ledger.add(table, "not pruned", seed, {"accuracy": base, "flops": 1.0, "parameters": 1.0, "seconds": 1.0})
    inputs, _ = train.all()

    ask = ask_here(model, SHAPE, lambda: [inputs[:NUM_MOMENTS]])
    for order, compensate, batch_norm in product(ORDERS, (True, False), (True, False)):
        method, own = ORDERS[order]
        pruner = load_pruner(method)
        how = Corrections(compensate, batch_norm, cuts)
        options = pruner.config.model_validate({"name": method, **own})
        rng = generator(seed, f"prune-{method}")
        small = cut(model, SHAPE, pruner, options, Target("flops", share), ask, how, rng)
        now = cost(small, positions)
        took = seconds([model, small], inputs[:256])
        row = f"{order}{', compensated' * compensate}{', batch norm' * batch_norm}"
        ledger.add(
            table, row, seed,
            {
                "accuracy": accuracy(small, test), "flops": now.flops / whole.flops,
                "parameters": now.parameters / whole.parameters, "seconds": took[1] / took[0],
            },
        )  # fmt: skip


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    shares: Annotated[
        list[float] | None, typer.Option(help="Fractions of the FLOPs; repeatable; 0.5 and 0.25 by default.")
    ] = None,
    cuts: Annotated[int, typer.Option(help="Number of cuts until the fraction is reached.")] = 3,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, prune, and print a table per fraction."""
    ledger = Ledger(out)
    for share in shares or [0.5, 0.25]:
        for seed in seeds or [0, 1, 2]:
            run(seed, data_root, ledger, share, cuts)
    for table in ledger.tables:
        print(f"\n{ledger.markdown(table)}")


if __name__ == "__main__":
    typer.run(main)
