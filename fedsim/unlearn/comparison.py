"""The outcome of `fedsim unlearn`: models side by side, as `comparison.json` keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from fedsim.errors import FedsimError
from fedsim.unlearn.measure import Measured
from unlearning.evaluation import epsilon_score, klom, u_lira
from unlearning.evaluation.intervals import Interval, over_seeds

FILE = "comparison.json"

Kind = Literal["original", "oracle", "method", "baseline"]
RANK = "gap/mean"


class Row(BaseModel):
    """One model, over all seeds."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    metrics: dict[str, Interval]
    attacks: dict[str, dict[str, Any]]
    """Of the first seed: value, chance level, standard error, sign, noise floor."""
    flags: dict[str, int]
    """In how many seeds each was raised."""
    class_accuracy: list[float | None]
    """Mean over seeds of the test accuracy of each class."""

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over seeds, NaN where it is not known."""
        return self.metrics[metric].mean if metric in self.metrics else math.nan


class Comparison(BaseModel):
    """Everything that a request came to."""

    model_config = ConfigDict(frozen=True)

    run: str
    forget: str
    kind: str
    num_forget: int
    num_retain: int
    num_matched: int
    """Forgotten and never-seen samples that attacks compare."""
    clients_left: int
    """Clients that have data without the forgotten samples, of `clients` that had before."""
    clients: int
    forgotten_classes: list[int]
    """Forgotten samples of each class."""
    seeds: int
    rows: list[Row]
    """Original and oracle, then the others, nearest to the oracle first."""
    notes: list[str]
    """What was asked for and could not be done."""

    @property
    def best(self) -> Row:
        """The nearest to the oracle of the methods asked for; without an oracle, the first."""
        return next(row for row in self.rows if row.kind == "method")


def make_row(name: str, kind: Kind, runs: Sequence[Measured], seconds: Sequence[float]) -> Row:
    """Return one model's row from what was measured, and how long the model took, under each seed."""
    timed = [measured.metrics | {"seconds": spent} for measured, spent in zip(runs, seconds, strict=True)]
    finite = [{name: value for name, value in metrics.items() if math.isfinite(value)} for metrics in timed]
    classes = np.array([measured.class_accuracies() for measured in runs])
    known = np.isfinite(classes).all(0)
    return Row(
        name=name,
        kind=kind,
        metrics=over_seeds(finite),
        attacks={name: _plain(attack) for name, attack in runs[0].attacks.items()},
        flags={flag: sum(flag in r.flags for r in runs) for flag in sorted({flag for r in runs for flag in r.flags})},
        class_accuracy=[float(a) if ok else None for a, ok in zip(classes.mean(0), known, strict=True)],
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return original and oracle first, then by distance to the oracle where there is one; diverged models last."""
    first = {"original": 0, "oracle": 1}

    def place(row: Row) -> tuple[int, bool, float]:
        gap = row.mean(RANK)
        return first.get(row.kind, 2), "diverged" in row.flags, gap if math.isfinite(gap) else math.inf

    return sorted(rows, key=place)


def distributional(runs: Sequence[Measured], oracles: Sequence[Measured], rng: np.random.Generator) -> dict[str, float]:
    """Return the metrics that compare N models with N oracles on the forgotten samples, as far as N allows."""
    if any("diverged" in measured.flags for measured in (*runs, *oracles)):
        return {}
    ours, theirs = (np.stack([measured.margins() for measured in side]) for side in (runs, oracles))
    out = {}
    if len(ours) >= klom.MIN_MODELS:
        out["klom/forget"] = klom.summarise_klom(klom.klom(ours, theirs)).mean
        out["klom/null"] = klom.klom_null(len(ours), rng).mean
    if len(ours) >= u_lira.MIN_PAIRS:
        out["u_lira/forget"] = u_lira.u_lira(ours, theirs, rng).attack.value
    if len(ours) >= epsilon_score.MIN_MODELS:
        out["epsilon/forget"] = epsilon_score.forgetting_quality(ours, theirs)
    return out


def with_metrics(row: Row, more: dict[str, float]) -> Row:
    """Return the row with numbers that stand for all seeds together."""
    return row.model_copy(update={"metrics": row.metrics | over_seeds([more])})


def read_comparison(folder: Path) -> Comparison:
    """Return the outcome kept in the folder of an unlearning."""
    file = folder / FILE
    try:
        return Comparison.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "malformed"
        raise FedsimError(f"{file}: cannot be read ({reason}); run fedsim unlearn again") from None


def _plain(attack: Any) -> dict[str, Any]:
    return {
        "value": attack.value, "chance": attack.chance, "standard_error": attack.standard_error, "sign": attack.sign,
        "size": attack.size, "reading": attack.reading,
        "floor": None if attack.floor is None else [attack.floor.mean, attack.floor.sd],
    }  # fmt: skip
