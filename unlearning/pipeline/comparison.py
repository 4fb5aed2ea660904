"""The outcome of `fedsim unlearn`: models side by side, as `comparison.json` keeps it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedsim.errors import FedsimError
from fedsim.sealed import Damaged, unseal
from unlearning.evaluation.efficiency import run_time_efficiency
from unlearning.evaluation.ensembles import Ensembles, measure_ensembles
from unlearning.evaluation.intervals import Interval, over_seeds
from unlearning.evaluation.ranking import rank
from unlearning.pipeline.measure import Measured

FILE = "comparison.json"
RANK = "average_gap"

Kind = Literal["original", "oracle", "method", "baseline"]


class Row(BaseModel):
    """One model, over all seeds."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    place: int | None
    """By distance to the oracle, from 1; equal ones share a place."""
    as_good_as_first: bool
    """Its interval and the first's overlap."""
    metrics: dict[str, Interval]
    """By names of `unlearning.evaluation.catalogue.METRICS`."""
    null: dict[str, float]
    """What a metric is between models, or samples, that are alike."""
    attacks: dict[str, dict[str, Any]]
    """Of the first seed: value, chance level, standard error, sign, noise floor."""
    flags: dict[str, int]
    """In how many seeds each was raised."""
    class_accuracy: list[float | None]
    """Of the first seed: the test accuracy of each class."""

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
    num_unseen: int
    """Never-seen samples that attacks tell the forgotten ones from."""
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
        """The nearest to the oracle of the methods asked for, or the oracle itself; without one, the first method."""
        return next(row for kind in ("method", "oracle") for row in self.rows if row.kind == kind)

    @property
    def is_ranked(self) -> bool:
        """Whether there is an oracle to rank by."""
        return any(row.place is not None for row in self.rows)


@dataclasses.dataclass
class Contestant:
    """What one model came to, seed by seed."""

    kind: Kind
    runs: list[Measured] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Of training or of the method; NaN where there was neither."""
    costs: list[Mapping[str, float]] = dataclasses.field(default_factory=list)
    """What else each took, by names of the catalogue."""


def make_rows(contestants: dict[str, Contestant], rng: np.random.Generator) -> list[Row]:
    """Return original and oracle, then the others: nearest to the oracle first, or as they came where there is none."""
    oracle = contestants.get("oracle")
    rivals = {name: c for name, c in contestants.items() if c.kind in ("method", "baseline")}
    distances = {name: [run.values.get(RANK) for run in c.runs] for name, c in rivals.items()}
    places = {place.method: place for place in rank(distances)} if oracle else {}
    rows = []
    for name in ("original", "oracle", *(places or rivals)):
        if (contestant := contestants.get(name)) is None:
            continue
        row, place = _row(name, contestant, oracle, rng), places.get(name)
        if place is not None:
            row = row.model_copy(update={"place": place.place, "as_good_as_first": place.as_good_as_first})
        rows.append(row)
    return rows


def _row(name: str, contestant: Contestant, oracle: Contestant | None, rng: np.random.Generator) -> Row:
    runs, first = contestant.runs, contestant.runs[0]
    seeds: list[dict[str, float | None]] = []
    for number, (run, seconds, costs) in enumerate(zip(runs, contestant.seconds, contestant.costs, strict=True)):
        values: dict[str, float | None] = {**run.values, **costs, "attack_seconds": run.seconds}
        if seconds > 0:
            values["seconds"] = seconds
            if oracle is not None and contestant is not oracle:
                values["run_time_efficiency"] = run_time_efficiency(seconds, oracle.seconds[number])
        seeds.append(values)
    many = {} if oracle is None or contestant is oracle else _ensemble_metrics(runs, oracle.runs, rng)
    attacks = {} if first.facts is None else first.facts.attacks
    flags = [flag for run in runs for flag in run.flags]
    return Row(
        name=name,
        kind=contestant.kind,
        place=None,
        as_good_as_first=False,
        metrics=over_seeds(seeds) | over_seeds([{metric: value for metric, (value, _) in many.items()}]),
        null={metric: null for metric, (_, null) in many.items() if null is not None},
        attacks={metric: dataclasses.asdict(attack) for metric, attack in attacks.items()},
        flags={flag: flags.count(flag) for flag in dict.fromkeys(flags)},
        class_accuracy=[] if first.facts is None else first.facts.per_class["test"],
    )


def _ensemble_metrics(
    runs: Sequence[Measured], oracles: Sequence[Measured], rng: np.random.Generator
) -> dict[str, tuple[float, float | None]]:
    """Return (value, null) of the metrics that compare N models with N oracles, as far as N allows."""
    if any(run.facts is None for run in (*runs, *oracles)):
        return {}
    sides = [
        {role: np.stack([run.margins(role) for run in side]) for role in ("forget", "retain", "test")}
        for side in (runs, oracles)
    ]
    found = measure_ensembles(Ensembles(sides[0], sides[1]), rng)
    return {name: (m.value, m.null) for name, m in found.items() if m.value is not None}


def read_comparison(folder: Path) -> Comparison:
    """Return the outcome kept in the folder of an unlearning."""
    file = folder / FILE
    try:
        return Comparison.model_validate_json(unseal(file.read_bytes()))
    except (OSError, ValueError) as error:
        reason = str(error) if isinstance(error, Damaged) else getattr(error, "strerror", None) or "malformed"
        raise FedsimError(f"{file}: cannot be read ({reason}); run fedsim unlearn again") from None
