"""GS-LoRA on CIFAR-100 with a small vision transformer, for a machine with a GPU. We have not run it so far.

Run `python scripts/gs_lora_gpu.py --data-root FOLDER --part PART` repeatedly until it prints that the part is done.
Each call stops after about `--minutes`, 7 by default, and the next one continues. The parts, in this order:

- `train`: the original transformer, preset gs_lora_cifar100;
- `single`: 20 of 100 classes at once, with a tenth of the data;
- `sequence`: four requests of 20 classes each;
- `shots`: 50 classes with 4 images of each. In the paper, GS-LoRA++ has a large advantage here: H 70.6 against 4.7 on
  faces.

The papers (arXiv:2403.11530, arXiv:2501.09705) have no figures for CIFAR-100. For four requests of 20 classes of
ImageNet100 with a ViT-B/16 they report H 86.1, 87.3, 87.8 and 86.3 (GS-LoRA) and 86.6, 87.2, 87.5 and 87.0 (++). The
columns are those of `class_forgetting.py`. `--tiny` tests everything on a few images.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from class_forgetting import Request, masked, measured, measured_mask
from evidence import Ledger, forgotten
from target_gpu import Clock, OutOfTime

import fedsim
from fedsim.config.resolve import find_config
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from fedsim.runs.checkpoint import load_model, save_model
from fedsim.runs.folder import RunFolder
from unlearning.api.view import View
from unlearning.pipeline.source import open_source

PRESET = "gs_lora_cifar100"
TINY: dict[str, Any] = {
    "data.max_per_class": 8, "rounds": 2, "eval_every": 1, "model.width": 12, "model.depth": 2,
    "training.precision": "float32", "training.batch_size": 64,
}  # fmt: skip
OPTIONS: dict[str, Any] = {"rank": 8, "epochs": 50, "warmup": 10, "batch_size": 48, "alpha": 1e-3, "bound": 15.0}
METHODS = {"GS-LoRA": "gs_lora", "GS-LoRA++": "gs_lora_pp"}


@dataclass(frozen=True, eq=False)
class Bench:
    """The data and models that all parts use."""

    first: Classifier
    train: View
    test: View
    order: list[int]
    """All classes, shuffled by the seed."""
    options: dict[str, Any]
    seed: int
    out: Path
    ledger: Ledger
    is_late: Callable[[], bool]

    def request(self, classes: list[int], earlier: list[int]) -> Request:
        """Return a request for these classes."""
        return Request(self.first, self.train, self.test, classes, earlier)

    def forget(self, name: str, model: Classifier, request: Request, seed: int, **options: Any) -> Classifier:
        """Apply a method to a copy of a model."""
        return forgotten(METHODS[name], model, request.roles, seed, **(self.options | options)).model


def trained(folder: Path, seed: int, root: Path | None, minutes: float, tiny: bool) -> bool:
    """Continue the training; return whether it is complete."""
    try:
        if not folder.exists():
            changes = {"name": folder.name, "out": str(folder.parent), "seed": seed, **(TINY if tiny else {})}
            where = {} if root is None else {"data.root": str(root)}
            fedsim.run(find_config(PRESET), overrides=changes | where, progress=Clock(minutes))
        elif RunFolder.open(folder).status != "finished":
            fedsim.resume(folder, Clock(minutes))
    except KeyboardInterrupt as stop:
        if not isinstance(stop.__context__, OutOfTime):
            raise
        return False
    return True


def bench(folder: Path, seed: int, minutes: float, tiny: bool) -> Bench:
    """Return the trained model and its data."""
    source, end = open_source(folder), time.monotonic() + 60 * minutes
    data, device = source.data.dataset, source.device

    def view(part: str) -> View:
        x, y = (torch.from_numpy(getattr(data, f"{array}_{part}")).to(device) for array in "xy")
        return View(x, y, data.mean, data.std)

    order = generator(seed, "classes").permutation(data.num_classes).tolist()
    options = OPTIONS | ({"epochs": 1, "warmup": 0} if tiny else {})
    ledger = Ledger(folder.with_suffix(".json"))
    return Bench(
        source.model, view("train"), view("test"), order, options, seed, folder.parent, ledger,
        lambda: time.monotonic() > end,
    )  # fmt: skip


def at_once(part: str, given: Bench) -> bool:
    """Add the rows of one request; return whether all exist."""
    count, options = (20, {}) if part == "single" else (50, {"shots": 4, "batch_size": 4})
    request, seed = given.request(given.order[-count:], []), given.seed
    if not given.ledger.has(part, "masked head", seed):
        given.ledger.add(part, "masked head", seed, measured_mask(given.first, request, seed))
        given.ledger.add(part, "not forgotten", seed, measured(given.first, given.first, request, seed))
    for name in METHODS:
        if given.ledger.has(part, name, seed):
            continue
        if given.is_late():
            return False
        after = given.forget(name, given.first, request, seed, **options)
        given.ledger.add(part, name, seed, measured(after, given.first, request, seed))
    return True


def in_a_row(given: Bench) -> bool:
    """Add the rows of four requests in a row; return whether all exist."""
    seed = given.seed
    for name in ("masked head", *METHODS):
        model = given.first
        for number in range(4):
            asked = given.order[20 * (3 - number) : 20 * (4 - number)]
            request = given.request(asked, given.order[20 * (4 - number) : 80])
            table, file = f"request {number + 1}", given.out / f"{name}-{seed}-{number}.safetensors"
            if not given.ledger.has(table, name, seed):
                if given.is_late():
                    return False
                if name == "masked head":
                    after, values = masked(model, request), measured_mask(model, request, seed)
                else:
                    after = given.forget(name, model, request, seed + 1000 * number)
                    values = measured(after, model, request, seed)
                save_model(file, after.state_dict())
                given.ledger.add(table, name, seed, values)
            model = copy.deepcopy(given.first)
            model.load_state_dict(load_model(file))
    return True


def main(
    part: Annotated[Literal["train", "single", "sequence", "shots"], typer.Option(help="What to do.")] = "train",
    data_root: Annotated[Path | None, typer.Option(help="Folder of CIFAR-100; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run, the models and the numbers.")] = Path("gs_lora_gpu"),
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 3,
    minutes: Annotated[float, typer.Option(help="Approximate time limit of this call.")] = 7,
    tiny: Annotated[bool, typer.Option(help="Use a few images, to test the script.")] = False,
) -> None:
    """Continue a part, and print its results so far."""
    folder = out / f"vit-{seed}"
    if part == "train" or not folder.exists() or RunFolder.open(folder).status != "finished":
        done = trained(folder, seed, data_root, minutes, tiny)
    else:
        given = bench(folder, seed, minutes, tiny)
        done = in_a_row(given) if part == "sequence" else at_once(part, given)
        for table in given.ledger.tables:
            print(f"\n{given.ledger.markdown(table)}")
    print("done" if done else "time limit reached: the same command continues from here")


if __name__ == "__main__":
    typer.run(main)
