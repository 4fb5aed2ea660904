"""The outcome of `fedsim unlearn`: a comparison of models, stored as `comparison.json`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedsim.errors import FedsimError
from fedsim.sealed import Damaged, unseal
from unlearning.api.registry import Where
from unlearning.evaluation.ensembles import Ensembles, Measurement, measure_ensembles
from unlearning.evaluation.gaps import GAP_METRICS, average_gap
from unlearning.evaluation.intervals import Interval, over_seeds
from unlearning.evaluation.ranking import places
from unlearning.evaluation.verdict import Label
from unlearning.pipeline.chain import Step
from unlearning.pipeline.judgement import Contestant, Kind, verdict_on
from unlearning.pipeline.measure import Brief, Measured

FILE = "comparison.json"
RANK = "average_gap"

_ORDER: tuple[Label, ...] = ("forgotten", "cannot be told here", "not forgotten", "damaged")


class Row(BaseModel):
    """One model, over all seeds."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    where: Where | None
    """Where the method runs; None for models that are not made by a method."""
    verdict: Label | None
    """The verdict; None without an oracle, or with too few seeds."""
    why: str
    """The reason of the verdict."""
    place: int | None
    """Rank from 1, by distance to the oracle, among the references and the methods that run in the same place. Ties
    share a rank."""
    metrics: dict[str, Interval]
    """Values by names of `unlearning.evaluation.catalogue.METRICS`."""
    null: dict[str, float]
    """Values of metrics between models, or samples, of equal distributions."""
    attacks: dict[str, dict[str, Any]]
    """Attacks of the first seed: value, chance level, standard error, sign, noise floor."""
    flags: dict[str, int]
    """Number of seeds in which each flag was raised."""
    class_accuracy: list[float | None]
    """The test accuracy of each class, for the first seed."""

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over seeds; NaN if it is unknown."""
        return self.metrics[metric].mean if metric in self.metrics else math.nan


class Comparison(BaseModel):
    """The complete outcome of a request."""

    model_config = ConfigDict(frozen=True)

    run: str
    forget: str
    kind: str
    num_forget: int
    num_retain: int
    num_unseen: int
    """Number of never-seen samples that attacks compare with the forgotten ones."""
    clients_left: int
    """Number of clients that still have data, of the `clients` that had data before."""
    clients: int
    forgotten_classes: list[int]
    """Number of forgotten samples of each class."""
    class_names: list[str]
    """Names of the classes."""
    seeds: int
    rows: list[Row]
    """Original, oracle and baselines, then federated methods and central ones, each by verdict and distance."""
    floor: float | None
    """The largest gap, in points, between two oracles of different seeds; None with fewer than two."""
    notes: list[str]
    """Notes on requested parts that were not possible."""
    own_metrics: dict[str, str] = {}
    """Sentences of the user's own metrics, by name."""
    chain: list[Step] = []
    """For a sequence that ends with this request: accuracies on each request's samples, after each request."""

    @property
    def best(self) -> Row:
        """The delivered model: of the requested methods, the one closest to the oracle on held-out samples.

        It is the oracle if no method was requested, and the first method if there is no oracle.
        """
        methods = [row for row in self.rows if row.kind == "method"]
        if not methods:
            return next(row for row in self.rows if row.kind == "oracle")
        return min(methods, key=lambda row: row.metrics["selection_gap"].mean if row.flags.get("diverged") is None
                   and "selection_gap" in row.metrics else math.inf)  # fmt: skip

    @property
    def is_judged(self) -> bool:
        """Whether there are verdicts."""
        return any(row.verdict is not None for row in self.rows)

    @property
    def is_ranked(self) -> bool:
        """Whether there is an oracle for a ranking."""
        return any(row.place is not None for row in self.rows)


def make_rows(contestants: Mapping[str, Contestant], kind: str, rng: np.random.Generator) -> list[Row]:
    """Return the rows of a request of this kind: references, then methods, federated before central ones."""
    oracle = contestants.get("oracle")
    ranked = _places(contestants, noise_floor(contestants)) if oracle else {}
    many = {
        name: {} if oracle is None or contestant is oracle else _ensemble_metrics(contestant, oracle, rng)
        for name, contestant in contestants.items()
    }
    rows = [_row(name, contestants, kind, many).model_copy(update={"place": ranked.get(name)}) for name in contestants]
    groups = {"original": 0, "oracle": 1}
    ends = {"federated": 3, "central": 4, None: 2}

    def key(row: Row) -> tuple[int, int, float, str]:
        group = groups.get(row.name, ends[row.where] if row.kind == "method" else 2)
        distance = row.mean(RANK)
        judged = len(_ORDER) if row.verdict is None else _ORDER.index(row.verdict)
        return group, judged, math.inf if math.isnan(distance) else distance, row.name if oracle else ""

    return sorted(rows, key=key)


def noise_floor(contestants: Mapping[str, Contestant]) -> float | None:
    """Return the largest gap between two oracles of different seeds, in points; None with fewer than two."""
    runs = [run.values for run in contestants["oracle"].runs if run.facts] if "oracle" in contestants else []
    pairs = [
        average_gap(ours, {name: theirs[name] for name in GAP_METRICS if name in theirs and name in ours})
        for ours, theirs in itertools.permutations(runs, 2)
    ]
    return max(pairs) if pairs else None


def _places(contestants: Mapping[str, Contestant], floor: float | None) -> dict[str, int]:
    """Return the ranks within the methods of each place, each time together with the references."""
    references = {name for name, c in contestants.items() if c.kind in ("original", "baseline")}
    out: dict[str, int] = {}
    for where in ("federated", "central"):
        rivals = {n for n, c in contestants.items() if c.kind == "method" and c.where == where}
        distances = {name: _distance(contestants[name]) for name in contestants if name in rivals | references}
        if rivals or not out:
            out |= places(distances, floor or 0.0)
    return out


def _distance(contestant: Contestant) -> float | None:
    known = [run.values.get(RANK) for run in contestant.runs]
    return None if None in known else float(np.mean([value for value in known if value is not None]))


def _row(
    name: str, contestants: Mapping[str, Contestant], kind: str, many: Mapping[str, Mapping[str, Measurement]]
) -> Row:
    contestant, oracle, of_many = contestants[name], contestants.get("oracle"), many[name]
    runs, first = contestant.runs, contestant.runs[0]
    retraining = float(np.mean(oracle.seconds)) if oracle else math.nan
    seeds: list[dict[str, float | None]] = []
    for run, seconds, costs in zip(runs, contestant.seconds, contestant.costs, strict=True):
        values: dict[str, float | None] = {**run.values, **costs, "attack_seconds": run.seconds}
        if seconds > 0:
            values["seconds"] = seconds
            if contestant.kind in ("method", "baseline") and retraining > 0:
                values["time_share"] = seconds / retraining
        seeds.append(values)
    models = len(runs) + len(contestant.further)
    seeds += [dict(model.values) for model in contestant.further]
    attacks = {} if first.facts is None else first.facts.attacks
    flags = _flags(runs, oracle.runs if oracle else [])
    judged = verdict_on(name, contestants, kind, many)
    return Row(
        name=name,
        kind=contestant.kind,
        where=contestant.where,
        verdict=judged.label if judged else None,
        why=judged.why if judged else "",
        place=None,
        metrics=over_seeds(seeds) | {metric: _interval(found, models) for metric, found in of_many.items()},
        null={metric: found.null for metric, found in of_many.items() if found.null is not None},
        attacks={metric: dataclasses.asdict(attack) for metric, attack in attacks.items()},
        flags={flag: flags.count(flag) for flag in dict.fromkeys(flags)},
        class_accuracy=[] if first.facts is None else first.facts.per_class["test"],
    )


def _flags(runs: Sequence[Measured], oracles: Sequence[Measured]) -> list[str]:
    """Return the flags of all seeds; over-forgotten does not count if the oracle has this flag too."""
    expected = [oracle.flags for oracle in oracles] or [[]] * len(runs)
    return [
        flag
        for run, target in zip(runs, expected, strict=True)
        for flag in run.flags
        if flag not in target or flag != "over-forgotten"
    ]


def _interval(found: Measurement, seeds: int) -> Interval:
    return Interval(found.value, None, found.low, found.high, seeds)


def _ensemble_metrics(contestant: Contestant, oracle: Contestant, rng: np.random.Generator) -> dict[str, Measurement]:
    """Return the metrics that compare N models with N oracles, if N is large enough; diverged models are left out."""
    models: list[list[Measured | Brief]] = [
        [*(run for run in side.runs if run.facts is not None), *side.further] for side in (contestant, oracle)
    ]
    if not all(models):
        return {}
    sides = [
        {role: np.stack([model.margins(role) for model in side]) for role in ("forget", "retain", "test")}
        for side in models
    ]
    return measure_ensembles(Ensembles(sides[0], sides[1]), rng)


def read_comparison(folder: Path) -> Comparison:
    """Return the comparison stored in the folder of an unlearning."""
    file = folder / FILE
    try:
        return Comparison.model_validate_json(unseal(file.read_bytes()))
    except (OSError, ValueError) as error:
        reason = str(error) if isinstance(error, Damaged) else getattr(error, "strerror", None) or "malformed"
        raise FedsimError(f"{file}: cannot be read ({reason}); run fedsim unlearn again") from None
