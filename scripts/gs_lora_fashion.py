"""GS-LoRA on a small Fashion-MNIST: three random classes forgotten at once, and two at a time three times over.

Run `python scripts/gs_lora_fashion.py --data-root FOLDER --out gs_lora_fashion.json`; it takes about 8 minutes a seed
on one CPU core. What `--out` already has is kept. 6,000 training and all test images, 14 x 14; a vision transformer
of 4 blocks (arXiv:2403.11530, arXiv:2501.09705). Columns in percent: H = 2 Acc_r Drop / (Acc_r + Drop) with the drop
from the first model, accuracy on kept (r), forgotten (f) and earlier forgotten (o) classes; `probe`, the accuracy of
the nearest class mean of the features on test images of the forgotten classes; `relearn`, their accuracy after 20 steps
on 10 training images of each. To forget below the head, `probe` must be 10 points lower than that of the masked head.
`still`: blocks whose change is below 1e-3; `change`: the sum of all blocks' changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from evidence import Ledger, fit, forgotten, logits, rows_of, small_fashion
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.evaluation.class_means import probe
from unlearning.gs_lora import perceptrons
from unlearning.parts.steps import endless, sample
from unlearning.pipeline.roles import Roles

NUM_TRAIN = 6_000
VIT = ModelConfig(name="vit", width=48, depth=4, heads=4, patch=2, mlp_ratio=2.0)


def pretrained(train: View, seed: int) -> Classifier:
    """Return the transformer that is to forget."""
    model = build_model(VIT, (1, 14, 14), 10, seed)

    def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def adamw(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, 2e-3)  # type: ignore[arg-type]

    fit(model, train, seed, adamw, epochs=12, batch_size=64, schedule=cosine)
    return model.eval()


@dataclass(frozen=True, eq=False)
class Request:
    """Classes to forget from a model, and what is there to do it with."""

    first: Classifier
    """Before any request."""
    train: View
    test: View
    classes: list[int]
    earlier: list[int]

    def of(self, view: View, classes: list[int]) -> View:
        """Return the samples of some classes."""
        assert view.y is not None
        return rows_of(view, torch.isin(view.y, torch.tensor(classes)))

    @property
    def kept(self) -> list[int]:
        """Classes that are neither forgotten now nor before."""
        return [c for c in range(10) if c not in (*self.classes, *self.earlier)]

    @property
    def roles(self) -> Roles:
        """The views of the request."""
        return Roles(self.of(self.train, self.classes), self.of(self.train, self.kept), self.test, self.test, self.test)


def accuracy(model: Classifier, view: View) -> float:
    """Return the accuracy in percent; NaN of no samples."""
    assert view.y is not None
    return float(100 * (logits(model, view).argmax(1) == view.y.numpy()).mean()) if len(view) else float("nan")


@torch.no_grad()
def features(model: Classifier, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, d) and labels (N,)."""
    assert view.y is not None
    model.eval()
    return np.concatenate([model.features(x).double().numpy() for x, _ in view.batches(500, None)]), view.y.numpy()


def relearned(model: Classifier, request: Request, seed: int) -> float:
    """Return the accuracy on the forgotten classes after 20 steps of SGD on 10 training images of each."""
    model, rng = copy.deepcopy(model), generator(seed, "relearn")
    some = [request.of(request.train, [label]) for label in request.classes]
    few = [rows_of(view, torch.from_numpy(rng.permutation(len(view))[:10])) for view in some]
    x, y = torch.cat([view.all()[0] for view in few]), torch.cat([view.y for view in few if view.y is not None])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return accuracy(model, request.of(request.test, request.classes))


def changes(model: Classifier, before: Classifier) -> list[float]:
    """Return the norm of each block's change."""
    found = []
    for pair in perceptrons(before).values():
        moved = [model.get_parameter(f"{n}.weight") - before.get_parameter(f"{n}.weight") for n in pair]
        found.append(float(sum(value.detach().square().sum() for value in moved) ** 0.5))  # type: ignore[arg-type]
    return found


def measured(model: Classifier, before: Classifier, request: Request, seed: int) -> dict[str, float]:
    """Return all columns of one model."""
    forget, kept = (request.of(request.test, classes) for classes in (request.classes, request.kept))
    acc_f, acc_r = accuracy(model, forget), accuracy(model, kept)
    drop = accuracy(request.first, forget) - acc_f
    moved, roles = changes(model, before), request.roles
    probed = probe(features(model, roles.forget), features(model, roles.retain), features(model, forget))
    values = {
        "H": 2 * acc_r * drop / (acc_r + drop) if drop > 0 else 0.0, "r": acc_r, "f": acc_f,
        "probe": 100 * probed.unseen, "relearn": relearned(model, request, seed),
        "still": float(sum(value < 1e-3 for value in moved)), "change": sum(moved),
    }  # fmt: skip
    if request.earlier:
        values["o"] = accuracy(model, request.of(request.test, request.earlier))
    return values


def masked(model: Classifier, request: Request) -> Classifier:
    """Return the model that never answers a forgotten class: the head's rows say so, nothing else changes."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.classifier.bias[request.classes] = -1e4
    return model


def whole_backbone(model: Classifier, request: Request, seed: int, lr: float) -> Classifier:
    """Return what the same loss makes of all weights but the head: max(0, 10 - CE_f) and CE_r."""
    model, rng = copy.deepcopy(model), generator(seed, "whole backbone")
    forget, retain = (sample(view, 0.1, rng) for view in (request.roles.forget, request.roles.retain))
    optimizer = torch.optim.AdamW(model.features.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60, 1e-5)
    leaving = endless(forget, 32, rng)
    model.train()
    for _ in range(60):
        for x, y in retain.batches(32, rng):
            x_f, y_f = next(leaving)
            assert y is not None
            assert y_f is not None
            loss = F.cross_entropy(model(x), y) + 0.2 * F.relu(10 - F.cross_entropy(model(x_f), y_f))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def ascent(model: Classifier, request: Request, seed: int) -> Classifier:
    """Return what gradient ascent on the forget samples makes of all weights."""
    model, rng = copy.deepcopy(model), generator(seed, "ascent")
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    for _ in range(10):
        for x, y in sample(request.roles.forget, 0.1, rng).batches(32, rng):
            assert y is not None
            optimizer.zero_grad()
            (-F.cross_entropy(model(x), y)).backward()
            optimizer.step()
    return model.eval()


def contestants(request: Request, seed: int) -> dict[str, Callable[[Classifier], Classifier]]:
    """Return all rows of one request."""

    def method(name: str, **options: object) -> Callable[[Classifier], Classifier]:
        return lambda model: forgotten(name, model, request.roles, seed, **options).model

    return {
        "not forgotten": lambda model: model,
        "masked head": lambda model: masked(model, request),
        "GS-LoRA": method("gs_lora"),
        "GS-LoRA, no norms (plain LoRA)": method("gs_lora", alpha=0.0),
        "GS-LoRA++": method("gs_lora_pp"),
        "GS-LoRA, 4 shots": method("gs_lora", shots=4, batch_size=4),
        "GS-LoRA++, 4 shots": method("gs_lora_pp", shots=4, batch_size=4),
        "same loss, whole backbone": lambda model: whole_backbone(model, request, seed, 3e-4),
        "gradient ascent": lambda model: ascent(model, request, seed),
        "fine-tuning": method("finetune", epochs=5),
        "SCRUB": method("scrub"),
    }


def run(seed: int, root: Path | None, ledger: Ledger, rows: list[str] | None, sequences: bool) -> None:
    """Add everything of one seed, or some rows."""
    train, test = small_fashion(root, NUM_TRAIN, seed)
    first = pretrained(train, seed)
    order = generator(seed, "classes").permutation(10).tolist()
    request = Request(first, train, test, order[:3], [])
    for row, forget in contestants(request, seed).items():
        if rows and row not in rows:
            continue
        ledger.add("three classes", row, seed, measured(forget(first), first, request, seed))
    if not rows:
        retrained = pretrained(request.of(train, request.kept), seed)
        ledger.add("three classes", "retrained", seed, measured(retrained, first, request, seed))
    if sequences:
        run_sequences(first, train, test, order, seed, ledger)


def run_sequences(first: Classifier, train: View, test: View, order: list[int], seed: int, ledger: Ledger) -> None:
    """Add three requests in a row, for two classes each."""
    for row, name in (("GS-LoRA", "gs_lora"), ("GS-LoRA++", "gs_lora_pp")):
        model = first
        for task in range(3):
            one = Request(first, train, test, order[2 * task : 2 * task + 2], order[: 2 * task])
            after = forgotten(name, model, one.roles, seed + 1000 * task).model
            ledger.add(f"two classes, request {task + 1}", row, seed, measured(after, model, one, seed))
            kept: Tensor = torch.tensor([accuracy(first, one.of(test, one.kept))])
            ledger.add(f"two classes, request {task + 1}", "not forgotten", seed, {"r": float(kept)})
            model = after


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 3, 4 and 5 by default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    rows: Annotated[list[str] | None, typer.Option(help="Only these rows of the first table; repeatable.")] = None,
    sequences: Annotated[bool, typer.Option(help="Three requests in a row, too.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, forget, and print the tables."""
    torch.set_num_threads(1)
    ledger = Ledger(out)
    for seed in seeds or [3, 4, 5]:
        run(seed, data_root, ledger, rows, sequences)
    for table in ledger.tables:
        print(f"\n{ledger.markdown(table)}")


if __name__ == "__main__":
    typer.run(main)
