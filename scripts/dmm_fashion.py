"""Datamodel matching on a small Fashion-MNIST, compared with simple baselines and oracle matching.

There are 300 training images of 14 x 14, 30 of each class. An MLP of 32 units is trained with 100 full-batch steps of
Adam, as one client. The request is 15 of the 30 shirts: one of 20 groups of 15 images of one class. The baselines are
no change, gradient ascent, fine-tuning and EU-k. N = 100 originals are unlearned with every method and compared with
100 oracles by KLOM. Another 100 oracles give the noise floor and the targets of oracle matching. Datamodels are fitted
on 300 models of subsets of the 20 groups. Each repetition draws new images and trains new models.

Run `python scripts/dmm_fashion.py --data-root FOLDER --out FOLDER`. A repetition takes about 15 minutes on one CPU
core. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from evidence import Ledger, small_fashion

import fedsim
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from unlearning.api.registry import load_unlearning
from unlearning.evaluation.klom import klom, summarise_klom
from unlearning.evaluation.report import Splits
from unlearning.parts.datamodels import without_offset
from unlearning.pipeline.apply import options_of
from unlearning.pipeline.ensemble import Kept, Member, train_members
from unlearning.pipeline.forget import Request, parse_forget
from unlearning.pipeline.guides import Guides, Shifts, Units, shifts
from unlearning.pipeline.measure import Brief, brief_of, brief_of_logits, logits_of
from unlearning.pipeline.roles import Roles, roles_of, views_for
from unlearning.pipeline.source import Source, open_source

PER_CLASS, GROUP, SHIRT = 30, 15, 6
TRAINING = {"epochs": 100, "batch_size": 300, "optimizer": "adam", "lr": 0.01, "vectorize": "never"}
FULL_BATCH = {"batch_size": 1_000, "lr": 1e-3}
DMM = {**FULL_BATCH, "forget_times": 5, "retain_times": 10.0}
ASCENT = {"ceiling": 2.0, "batch_size": 1_000}
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"ascent, lr {lr:g}, {steps} steps": ("neggrad", {**ASCENT, "lr": lr, "epochs": steps})
        for lr in (0.003, 0.03)
        for steps in (5, 10, 20)
    },
    "fine-tuning, 60 steps": ("finetune", {"epochs": 60, "batch_size": 1_000, "lr": 0.03}),
    "fine-tuning, 200 steps": ("finetune", {"epochs": 200, "batch_size": 1_000, "lr": 0.03}),
    "EU-k, classifier, 400 steps": ("eu_k", {"blocks": 0, "epochs": 400, "batch_size": 1_000, "lr": 0.3}),
}  # fmt: skip
MATCHED: dict[str, dict[str, Any]] = {
    "DMM, 200 steps": {**DMM, "epochs": 200},
    "DMM, 400 steps": {**DMM, "epochs": 400},
    "DMM, forgotten samples once": {**DMM, "epochs": 200, "forget_times": 1},
    "DMM, on forgotten samples alone": {**DMM, "epochs": 60, "retain_times": 0.0},
}


def make_run(place: Path, root: Path | None, repetition: int) -> Source:
    """Return the run of one repetition; train it if it is missing."""
    if not (place / "run" / "summary.json").is_file():
        train, test = small_fashion(root, 60_000, repetition)
        arrays: dict[str, Any] = {}
        for part, view, count in (("train", train, PER_CLASS), ("test", test, PER_CLASS)):
            assert view.y is not None
            rows = np.concatenate([np.flatnonzero(view.y.numpy() == label)[:count] for label in range(10)])
            arrays |= {f"x_{part}": view.x.numpy()[rows], f"y_{part}": view.y.numpy()[rows]}
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / "small.npz", **arrays)
        recipe = {
            "data": {"name": f"npz:{place / 'small.npz'}"}, "clients": 1, "rounds": 1, "min_replies": 1,
            "model": {"name": "mlp", "hidden": [32]}, "training": TRAINING, "seed": 100_000 * (repetition + 1),
            "name": "run", "out": str(place),
        }  # fmt: skip
        fedsim.run(recipe, force=True)
    return open_source(place / "run")


class Repetition:
    """All models of one repetition. A unit is a group of images of one class; one unit is forgotten."""

    def __init__(
        self, place: Path, source: Source, models: int, subsets: int, group: int, forgotten: int,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        y, seed = source.data.dataset.y_train, source.config.seed
        held = np.sort(source.data.partition.indices)
        groups = [
            half for label in range(10) for half in np.split(held[y[held] == label], [group])
        ]  # two of each class
        np.savetxt(place / "forget.txt", groups[forgotten], "%d")
        self.source, self.subsets, self.say = source, subsets, say
        self.units = Units(groups, np.array([forgotten]), serves_all=True)
        self.request: Request = parse_forget(f"indices={place / 'forget.txt'}", source.data, seed)
        self.roles: Roles = roles_of(source, self.request)
        self.seeds = range(seed + 1, seed + 1 + models)
        gone = self.request.rows
        self.originals = self.trained([Member(own) for own in self.seeds])
        self.oracles = self.trained([Member(own, gone) for own in self.seeds])
        self.others = self.trained([Member(own + 20_000, gone) for own in self.seeds])
        self.oracle_margins = self.stacked([self.brief(kept.model(source)) for kept in self.oracles])

    def trained(self, members: list[Member]) -> list[Kept]:
        """Return models with their logits."""
        return list(train_members(self.source, members, frozenset({"model", "logits"}), self.say))

    def brief(self, model: Classifier) -> Brief:
        """Return only the margins of a model."""
        told = brief_of(model, self.roles, self.source.config.seed)
        assert told is not None
        return told

    def stacked(self, models: list[Brief]) -> dict[str, np.ndarray]:
        """Return margins (N, n) by role."""
        return {role: np.stack([model.margins(role) for model in models]) for role in ("forget", "retain", "test")}

    def shifts(self, **options: Any) -> Shifts:
        """Return the prediction of the datamodels."""
        given = options_of(load_unlearning("datamodel_matching"), {"models": self.subsets, **options})
        return shifts(self.source, self.request, self.units, given, self.say)

    def row(self, models: list[Brief], seconds: float) -> dict[str, float]:
        """Return KLOM, mean and 95th percentile over the samples of each role."""
        values: dict[str, float] = {}
        for role, margins in self.stacked(models).items():
            found = summarise_klom(klom(margins, self.oracle_margins[role]))
            values |= {role: found.mean, f"{role} p95": found.p95}
        return values | {"ms": 1000 * seconds}

    def unlearned(self, name: str, options: dict[str, Any], told: Shifts | None = None) -> dict[str, float]:
        """Return the row of a method; only the margins of its models are kept."""
        method, given = load_unlearning(name), options_of(load_unlearning(name), options)
        guides = Guides(self.source, self.request, self.roles, self.say)
        if told is not None:
            guides.shifts[name] = told
        seconds, found = [], []
        for number, (own, kept) in enumerate(zip(self.seeds, self.originals, strict=True)):
            if method.needs.oracle:
                roles = self.with_oracle(self.others[number])
            else:
                roles = guides.roles_for(method, given, own)
            forget, retain = views_for(roles, method.needs, generator(own, "noise"))
            unlearn: Any = method.unlearn
            begun = time.perf_counter()
            made = unlearn(kept.model(self.source), forget, retain, given, generator(own, name))
            seconds.append(time.perf_counter() - begun)
            found.append(self.brief(made))
        return self.row(found, float(np.median(seconds)))

    def with_oracle(self, oracle: Kept) -> Roles:
        """Return the roles with the logits of an oracle that is not used for judging."""
        guides = Guides(self.source, self.request, self.roles, self.say)
        outputs = [oracle.logits("train", rows) for rows in (self.request.rows, self.request.retain)]
        return guides.with_oracle(*outputs)

    def direct(self, told: Shifts) -> dict[str, float]:
        """Return the row of the prediction itself."""
        guides, found = Guides(self.source, self.request, self.roles, self.say), []
        guides.shifts["DM"] = told
        for kept in self.originals:
            (logits,) = guides.direct(logits_of(kept.model(self.source), self.roles)).values()
            brief = brief_of_logits(logits, self.roles, self.source.config.seed)
            assert brief is not None
            found.append(brief)
        return self.row(found, 0.0)

    def quality(self, told: Shifts) -> dict[str, float]:
        """Return how well the predicted mean shift agrees with the true one: correlation and best-fitting scale."""
        sides = [
            [logits_of(kept.model(self.source), self.roles) for kept in side] for side in (self.originals, self.oracles)
        ]
        values: dict[str, Any] = {"scale": told.scale}
        for role in ("forget", "retain", "test"):
            means = [np.mean([np.asarray(getattr(logits, role)) for logits in side], 0) for side in sides]
            truth, guess = (without_offset(x).ravel() for x in (means[0] - means[1], getattr(told.of, role)))
            values |= {
                f"corr {role}": np.corrcoef(truth, guess)[0, 1],
                f"best κ {role}": truth @ guess / (guess @ guess),
            }
        return {name: float(value) for name, value in values.items()}


def flipped(told: Shifts) -> Shifts:
    """Return the shift with the wrong sign."""
    return Shifts(Splits(*(-np.asarray(shift) for _, shift in told.of.items())), told.scale, told.costs)


def run(repetition: int, out: Path, root: Path | None, models: int, subsets: int, ledger: Ledger) -> None:
    """Add all rows of one repetition."""
    place = out / str(repetition)
    torch.set_num_threads(1)
    begun = time.perf_counter()
    all_of = Repetition(place, make_run(place, root, repetition), models, subsets, GROUP, 2 * SHIRT, print)
    print(f"all models are trained after {time.perf_counter() - begun:.0f} s")

    def add(row: str, values: Callable[[], dict[str, float]]) -> None:
        if not ledger.has("KLOM", row, repetition):
            ledger.add("KLOM", row, repetition, values())

    mean_ms = float(np.median([kept.seconds for kept in all_of.oracles]))
    add("oracles", lambda: all_of.row([all_of.brief(kept.model(all_of.source)) for kept in all_of.others], mean_ms))
    add("do nothing", lambda: all_of.row([all_of.brief(kept.model(all_of.source)) for kept in all_of.originals], 0.0))
    for row, (name, options) in ALONE.items():
        add(row, lambda name=name, options=options: all_of.unlearned(name, options))  # type: ignore[misc]
    add("oracle matching, 200 steps", lambda: all_of.unlearned("oracle_matching", {**DMM, "epochs": 200}))
    told = {
        "κ fitted": all_of.shifts(share=0.9), "κ = 1": all_of.shifts(share=0.9, scale=1.0),
        "means": all_of.shifts(share=0.9, estimator="means"), "α = 0.5, κ = 1": all_of.shifts(share=0.5, scale=1.0),
    }  # fmt: skip
    for name, each in told.items():
        add(f"DM-Direct, {name}", lambda each=each: all_of.direct(each))  # type: ignore[misc]
        if not ledger.has("attribution", name, repetition):
            ledger.add("attribution", name, repetition, all_of.quality(each))
    for row, options in MATCHED.items():
        add(row, lambda options=options: all_of.unlearned("datamodel_matching", options, told["κ fitted"]))  # type: ignore[misc]
    half, wrong = {**DMM, "epochs": 200}, flipped(told["κ fitted"])
    add("DMM, α = 0.5, κ = 1", lambda: all_of.unlearned("datamodel_matching", half, told["α = 0.5, κ = 1"]))
    add("DMM, wrong sign", lambda: all_of.unlearned("datamodel_matching", half, wrong))


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs and of dmm_fashion.json.")],
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    repetitions: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    models: Annotated[int, typer.Option(min=8, help="N.")] = 100,
    subsets: Annotated[int, typer.Option(min=20)] = 300,
) -> None:
    """Train, forget, and print two tables."""
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "dmm_fashion.json")
    for repetition in [0, 1, 2] if repetitions is None else repetitions:
        run(repetition, out, data_root, models, subsets, ledger)
    for table in ledger.tables:
        print(f"\n{ledger.markdown(table, 2)}")


if __name__ == "__main__":
    typer.run(main)
