"""GS-LoRA on a small Fashion-MNIST: three random classes forgotten at once, and three requests of two classes each.

Run `python scripts/gs_lora_fashion.py --data-root FOLDER --out gs_lora_fashion.json`. It takes about 20 minutes a seed
on one CPU core. It continues after the last row in `--out`. Data: 6,000 training and all test images of 14 x 14. Model:
a vision transformer of 4 blocks (arXiv:2403.11530, arXiv:2501.09705). The columns are those of `class_forgetting.py`.
A method forgets below the head if its `probe` is at least 10 points lower than that of the masked head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from class_forgetting import Request, accuracy, masked, measured, measured_mask
from evidence import Ledger, fit, forgotten, small_fashion

from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.randomness import generator
from fedsim.runs.checkpoint import load_model, save_model
from unlearning.api.view import View
from unlearning.parts.steps import distillation, endless, other_labels, required, sample

NUM_TRAIN = 6_000
VIT = ModelConfig(name="vit", width=48, depth=4, heads=4, patch=2, mlp_ratio=2.0)


def pretrained(train: View, seed: int) -> Classifier:
    """Train and return the original transformer."""
    model = build_model(VIT, (1, 14, 14), 10, seed)

    def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def adamw(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, 2e-3)  # type: ignore[arg-type]

    fit(model, train, seed, adamw, epochs=12, batch_size=64, schedule=cosine)
    return model.eval()


def kept_first(train: View, seed: int, out: Path | None) -> Classifier:
    """Return the original transformer; read it from the file beside the numbers if it exists."""
    file = None if out is None else out.with_suffix(f".{seed}.safetensors")
    if file is None or not file.exists():
        model = pretrained(train, seed)
        if file is not None:
            save_model(file, model.state_dict())
        return model
    return kept(file, seed)


def whole_backbone(model: Classifier, request: Request, seed: int, lr: float) -> Classifier:
    """Train all weights except the head with the same loss: max(0, 10 - CE_f) and CE_r."""
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
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return model.eval()


def distilled(model: Classifier, request: Request, seed: int) -> Classifier:
    """Train all weights except the head with Learning without Forgetting.

    Forgotten samples get wrong labels. Kept samples get their own labels and the first model's logits (T = 2).
    """
    teacher, model, rng = model, copy.deepcopy(model), generator(seed, "distilled")
    forget, retain = (sample(view, 0.1, rng) for view in (request.roles.forget, request.roles.retain))
    optimizer = torch.optim.AdamW(model.features.parameters(), 3e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60, 1e-5)
    leaving = endless(replace(forget, y=other_labels(required(forget.y), 10, rng)), 32, rng)
    model.train()
    for _ in range(60):
        for x, y in retain.batches(32, rng):
            x_f, wrong = next(leaving)
            kept = model(x)
            with torch.no_grad():
                before = teacher(x)
            keeping = F.cross_entropy(kept, required(y)) + distillation(kept, before, 2.0).mean()
            optimizer.zero_grad()
            (keeping + F.cross_entropy(model(x_f), required(wrong))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return model.eval()


def ascent(model: Classifier, request: Request, seed: int) -> Classifier:
    """Apply gradient ascent on the forget samples to all weights."""
    model, rng = copy.deepcopy(model), generator(seed, "ascent")
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    for _ in range(10):
        for x, y in sample(request.roles.forget, 0.1, rng).batches(32, rng):
            assert y is not None
            optimizer.zero_grad()
            (-F.cross_entropy(model(x), y)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def contestants(request: Request, seed: int) -> dict[str, Callable[[Classifier], Classifier]]:
    """Return all rows of one request."""

    def method(name: str, **options: object) -> Callable[[Classifier], Classifier]:
        return lambda model: forgotten(name, model, request.roles, seed, **options).model

    return {
        "not forgotten": lambda model: model,
        "GS-LoRA": method("gs_lora"),
        "GS-LoRA, no norms (plain LoRA)": method("gs_lora", alpha=0.0),
        "GS-LoRA++": method("gs_lora_pp"),
        "GS-LoRA, 4 shots": method("gs_lora", shots=4, batch_size=4),
        "GS-LoRA++, 4 shots": method("gs_lora_pp", shots=4, batch_size=4),
        "same loss, whole backbone": lambda model: whole_backbone(model, request, seed, 3e-4),
        "distillation (LwF)": lambda model: distilled(model, request, seed),
        "gradient ascent": lambda model: ascent(model, request, seed),
        "fine-tuning": method("finetune", epochs=5),
        "SCRUB": method("scrub"),
    }


def run(seed: int, root: Path | None, ledger: Ledger, rows: list[str] | None, sequences: bool) -> None:
    """Add all rows of one seed, or only the given rows."""
    train, test = small_fashion(root, NUM_TRAIN, seed)
    first = kept_first(train, seed, ledger.path)
    order = generator(seed, "classes").permutation(10).tolist()
    table, request = "three classes", Request(first, train, test, order[:3], [])

    def wanted(row: str) -> bool:
        return not ledger.has(table, row, seed) and (not rows or row in rows)

    if wanted("masked head"):
        ledger.add(table, "masked head", seed, measured_mask(first, request, seed))
    for row, forget in contestants(request, seed).items():
        if wanted(row):
            ledger.add(table, row, seed, measured(forget(first), first, request, seed))
    if wanted("retrained"):
        retrained = pretrained(request.of(train, request.kept), seed)
        ledger.add(table, "retrained", seed, measured(retrained, first, request, seed))
    if sequences:
        run_sequences(first, train, test, order, seed, ledger)


SEQUENCES: dict[str, Callable[[Classifier, Request, int], Classifier]] = {
    "masked head": lambda model, request, seed: masked(model, request),
    "GS-LoRA": lambda model, request, seed: forgotten("gs_lora", model, request.roles, seed).model,
    "GS-LoRA++": lambda model, request, seed: forgotten("gs_lora_pp", model, request.roles, seed).model,
    "retrained": lambda model, request, seed: pretrained(request.of(request.train, request.kept), seed),
}


def run_sequences(first: Classifier, train: View, test: View, order: list[int], seed: int, ledger: Ledger) -> None:
    """Add three requests in a row, of two classes each.

    Models are stored beside the numbers, so a run can be continued.
    """
    for row, forget in SEQUENCES.items():
        model = first
        for task in range(3):
            one = Request(first, train, test, order[2 * task : 2 * task + 2], order[: 2 * task])
            table, stem = f"two classes, request {task + 1}", "".join(c for c in row if c.isalnum() or c == "+")
            file = None if ledger.path is None else ledger.path.with_suffix(f".{seed}.{stem}.{task}.safetensors")
            if file is not None and file.exists() and ledger.has(table, row, seed):
                model = kept(file, seed)
                continue
            after = forget(model, one, seed + 1000 * task)
            values = measured_mask(model, one, seed) if row == "masked head" else measured(after, model, one, seed)
            if file is not None:
                save_model(file, after.state_dict())
            ledger.add(table, row, seed, values)
            known, gone = (accuracy(first, one.of(test, classes)) for classes in (one.kept, one.classes))
            ledger.add(table, "not forgotten", seed, {"r": known, "f": gone})
            model = after


def kept(file: Path, seed: int) -> Classifier:
    """Return the transformer stored in a file."""
    model = build_model(VIT, (1, 14, 14), 10, seed)
    model.load_state_dict(load_model(file))
    return model.eval()


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 3, 4 and 5 by default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    rows: Annotated[list[str] | None, typer.Option(help="Only these rows of the first table; repeatable.")] = None,
    sequences: Annotated[bool, typer.Option(help="Also run three requests in a row.")] = True,
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
