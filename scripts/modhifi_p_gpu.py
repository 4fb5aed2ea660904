"""ModHiFi-P and ModHiFi-U on CIFAR-10 in a ResNet-18 or ResNet-50, for a machine with a GPU. We have not run it so far.

Run `python scripts/modhifi_p_gpu.py --data-root FOLDER --network resnet18` repeatedly until it prints that it is done.
Each call stops after `--minutes`, 8 by default, and the next one continues. Then do the same for resnet50.

- The network is trained by one client that has all images, for 30 epochs. The paper (arXiv:2511.19566) uses 200.
- It is pruned to 1/2 and 1/4 of its FLOPs without fine-tuning, by four orders, with and without compensation and
  re-estimation of batch norm. The sums are over 2,000 training images. The paper reports 91.02 % of 94.99 % at 4.07x
  for ResNet-50, and 15.91 % for L2 without either.
- Each class is forgotten with ModHiFi-U, from 200 training images of it, in the paper's layers and with its shares. The
  paper reports 0.2 % for the class and 92.98 % for the others, for ResNet-50.

`--device cpu --tiny` tests everything in some minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from evidence import Ledger, forgotten, logits, rows_of
from target_gpu import Clock, OutOfTime
from torch import Tensor, nn
from torchvision.models import resnet50

import fedsim
from fedsim.runs.folder import RunFolder
from unlearning.api.view import View
from unlearning.parts.cutting import Corrections
from unlearning.pipeline.prune import prune
from unlearning.pipeline.pruning_record import FILE, read_pruning
from unlearning.pipeline.roles import Roles
from unlearning.pipeline.source import Source, open_source

METHODS = ("modhifi_p", "l1", "l2", "random")
LAYERS, SHARES = (1, 4, 12), (0.02, 0.06, 0.2)
NUM_STATISTICS = 200


class ResNet50(nn.Module):
    """torchvision's ResNet-50 with the usual stem for images of 32x32: one 3x3 convolution and no pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet50(num_classes=10)
        self.network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.network.maxpool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, 32, 32) to logits (B, 10)."""
        logits: Tensor = self.network(x)
        return logits


def configured(network: str, seed: int, device: str, tiny: bool, root: Path | None, out: Path) -> dict[str, Any]:
    """Return the configuration of the training."""
    model: dict[str, Any] = {"name": "resnet18", "norm": "batch"}
    if network == "resnet50":
        model = {"name": f"{Path(__file__).resolve()}:ResNet50"}
    elif tiny:
        model["width"] = 4
    return {
        "strategy": "fedavg", "clients": 1, "rounds": 2 if tiny else 30, "seed": seed, "eval_every": 1,
        "checkpoint_every": 1, "name": f"{network}-{seed}", "out": str(out), "model": model,
        "data": {"name": "cifar10", "augment": "crop_flip", "root": root, "max_per_class": 30 if tiny else None},
        "training": {
            "epochs": 1, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
            "schedule": "cosine", "precision": "float32" if tiny else "bf16-mixed",
        },
        "engine": {"device": device},
    }  # fmt: skip


def pruned(run: Path, ledger: Ledger, clock: Clock, seed: int, samples: int) -> Iterator[None]:
    """Add every order and correction at both targets; yields after each."""
    for share, method, compensate, settle in product((0.5, 0.25), METHODS, (True, False), (True, False)):
        row = f"{method}{', compensated' * compensate}{', batch norm' * settle}"
        table = f"{run.name.rpartition('-')[0]}, {share:g} of the FLOPs"
        if not ledger.has(table, row, seed):
            folder = run / "pruned" / f"{method}-{share:g}-{int(compensate)}{int(settle)}"
            if not (folder / FILE).exists():
                how = Corrections(compensate, settle)
                prune(run, method, f"flops={share}", samples=samples, how=how, name=folder.name, force=True)
            found = read_pruning(folder)
            times = found.after.milliseconds_256 / found.before.milliseconds_256
            columns = {
                "before": 100 * (found.before.accuracy or 0), "accuracy": 100 * (found.after.accuracy or 0),
                "FLOPs": found.after.flops / found.before.flops, "time": times, "seconds": found.seconds,
            }  # fmt: skip
            ledger.add(table, row, seed, columns)
            yield


def unlearned(source: Source, ledger: Ledger, network: str, seed: int) -> Iterator[None]:
    """Add the forgetting of each class, with each choice of layers and share; yields after each class."""
    data, device = source.data.dataset, source.device
    about = {"mean": data.mean, "std": data.std, "dtype": source.model.classifier.weight.dtype}
    train, test = (
        View(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), **about)  # type: ignore[arg-type]
        for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test))
    )
    assert train.y is not None
    for label in range(10):
        if ledger.has(network, f"class {label}: {LAYERS[-1]} layers, p = {SHARES[-1]:g}", seed):
            continue
        of_class = rows_of(train, torch.nonzero(train.y == label)[:NUM_STATISTICS, 0])
        roles = Roles(of_class, of_class, test, test, test)
        for layers, share in product(LAYERS, SHARES):
            result = forgotten("modhifi_u", source.model, roles, seed, layers=layers, share=share)
            labels = data.y_test
            right = logits(result.model.cpu(), replace(test, x=test.x.cpu(), y=None)).argmax(1) == labels
            columns = {"forget": right[labels == label].mean(), "remain": right[labels != label].mean()}
            row = f"class {label}: {layers} layers, p = {share:g}"
            ledger.add(network, row, seed, {k: 100 * v for k, v in columns.items()} | {"seconds": result.seconds})
        yield


def main(
    network: Annotated[Literal["resnet18", "resnet50"], typer.Option(help="Which one.")] = "resnet18",
    data_root: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the numbers.")] = Path("modhifi_p_gpu"),
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 1,
    minutes: Annotated[float, typer.Option(help="Time limit of this call.")] = 8,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Use a few images, to test the script.")] = False,
) -> None:
    """Continue with the remaining work, and print the tables."""
    clock, out = Clock(minutes), out.resolve()
    run, ledger = out / f"{network}-{seed}", Ledger(out / "numbers.json")
    try:
        if not run.exists():
            fedsim.run(configured(network, seed, device, tiny, data_root, out), progress=clock)
        elif RunFolder.open(run).status != "finished":
            fedsim.resume(run, clock)
        for _ in pruned(run, ledger, clock, seed, 60 if tiny else 2000):
            if time.monotonic() > clock.end_s:
                raise OutOfTime
        for _ in unlearned(open_source(run), ledger, network, seed):
            if time.monotonic() > clock.end_s:
                raise OutOfTime
    except KeyboardInterrupt as stop:
        if not isinstance(stop, OutOfTime) and not isinstance(stop.__context__, OutOfTime):
            raise
        print("time limit reached: the same command continues from here")
    else:
        print("done")
    for table in ledger.tables:
        print(f"\n{ledger.markdown(table)}")


if __name__ == "__main__":
    typer.run(main)
