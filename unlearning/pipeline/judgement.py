"""The evidence for a verdict: which metrics of the models are compared with those of retraining."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from unlearning.api.registry import Where
from unlearning.evaluation.ensembles import Measurement
from unlearning.evaluation.verdict import MIN_DISTRIBUTION, MIN_SEEDS, Evidence, OfDistribution, Verdict, judge
from unlearning.pipeline.measure import Brief, Measured

Kind = Literal["original", "oracle", "method", "baseline"]


@dataclasses.dataclass
class Contestant:
    """The results of one method or reference, seed by seed."""

    kind: Kind
    where: Where | None = None
    runs: list[Measured] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Seconds of training or of the method; NaN if there was neither."""
    costs: list[Mapping[str, float]] = dataclasses.field(default_factory=list)
    """Other costs, by their names in the catalogue."""
    further: list[Brief] = dataclasses.field(default_factory=list)
    """Models of further seeds, of which only margins are known."""


def verdict_on(
    name: str,
    contestants: Mapping[str, Contestant],
    kind: str,
    many: Mapping[str, Mapping[str, Measurement]] | None = None,
) -> Verdict | None:
    """Return the verdict on a contestant; None without an oracle and an original, or with too few seeds.

    `kind` is that of the request. If whole classes are forgotten, a model must not know them at all. Otherwise it
    must fit forgotten samples no better than never-seen ones of the same classes, so each attack measures the
    difference of the two. A method that improves the model on both does not count as remembering. `many` contains the
    metrics of distributions, by name of the contestant.
    """
    if any(side not in contestants or len(contestants[side].runs) < MIN_SEEDS for side in ("oracle", "original")):
        return None
    if any(run.facts is None for run in contestants[name].runs):
        return Verdict("damaged", "its outputs are not finite")
    sides = [contestants[side].runs for side in (name, "oracle", "original")]
    if any(run.facts is None for side in sides for run in side):
        return None
    further = [contestants[side].further for side in (name, "oracle", "original")]
    attacks = _gathered(_ATTACKS_ON_CLASSES if kind == "class" else _ATTACKS, sides, further)
    uses = _gathered(_USES, sides, further)
    if many is None or (apart := _distributions(name, contestants, many)) is None:
        return judge(attacks, uses)
    return judge({**attacks, _DISTRIBUTION: apart}, uses)


def _distributions(
    name: str, contestants: Mapping[str, Contestant], many: Mapping[str, Mapping[str, Measurement]]
) -> OfDistribution | None:
    """Return the result of U-LiRA for a contestant and for the original; None with too few models.

    KLOM has no interval, and is far from 0 for models of equal distributions: it is only in the table.
    """
    sides = [contestants[side] for side in (name, "original", "oracle")]
    models = min(len(side.runs) + len(side.further) for side in sides)
    found = [many.get(side, {}).get("u_lira") for side in (name, "original")]
    if models < MIN_DISTRIBUTION or any(one is None for one in found):
        return None
    margins = [_mean_margin(side) for side in sides]
    beyond = (margins[0] - margins[2]) * (margins[1] - margins[2]) < 0
    # An accuracy below chance does not tell models apart.
    excess = [max(one.value - 0.5, 0.0) for one in found if one is not None]
    errors = [one.error or 0.0 for one in found if one is not None]
    return OfDistribution(-excess[0] if beyond else excess[0], errors[0], excess[1], errors[1], models)


def _mean_margin(contestant: Contestant) -> float:
    models: list[Measured | Brief] = [*contestant.runs, *contestant.further]
    return float(np.mean([model.margins("forget").mean() for model in models]))


Number = Callable[[Measured | Brief], float]
"""One number of one model; KeyError if it is unknown."""


def _value(name: str) -> Number:
    return lambda run: run.values[name]


def _beyond_unseen(name: str, unseen: str) -> Number:
    return lambda run: run.values[name] - run.values[unseen]


def _quicker(run: Measured | Brief) -> float:
    """Return the logarithm of steps to learn never-seen samples / steps to relearn forgotten ones."""
    return math.log1p(run.values["relearn_unseen"]) - math.log1p(run.values["relearn_steps"])


_ATTACKS: dict[str, Number] = {
    "accuracy": _beyond_unseen("accuracy_forget", "accuracy_unseen"),
    "loss": _value("mia_auc"),
    "feature probe": _beyond_unseen("probe_forget", "probe_unseen"),
    "batch norm": _beyond_unseen("accuracy_forget_bn", "accuracy_unseen_bn"),
    "relearning": _quicker,
    "trigger": _value("trigger_success"),
    "personal models": _beyond_unseen("personal_forget", "personal_unseen"),
}
_ATTACKS_ON_CLASSES: dict[str, Number] = {
    "accuracy": _value("accuracy_forget"),
    "feature probe": _value("probe_forget"),
    "batch norm": _value("accuracy_forget_bn"),
    "relearning": lambda run: -math.log1p(run.values["relearn_steps"]),
    "personal models": _value("personal_forget"),
}
_USES: dict[str, Number] = {
    "accuracy on kept samples": _value("accuracy_retain"),
    "accuracy on test samples": _value("accuracy_test"),
}
_DISTRIBUTION = "U-LiRA"
_SETS = {"accuracy on kept samples": "retain", "accuracy on test samples": "test", "trigger": "test"}
_RELEARNING_SPREAD = 0.3  # of the logarithm; the order of batches changes the count by about a third


def _gathered(
    numbers: Mapping[str, Number], sides: list[list[Measured]], further: list[list[Brief]]
) -> dict[str, Evidence]:
    """Return the evidence for each number that all models have; further models are used if margins suffice."""
    found = {}
    for name, number in numbers.items():
        try:
            model, oracle, original = ([number(run) for run in side] for side in sides)
        except KeyError:
            continue
        with contextlib.suppress(KeyError):
            more = [[number(run) for run in side] for side in further]
            model, oracle, original = model + more[0], oracle + more[1], original + more[2]
        found[name] = Evidence(model, oracle, original, _sampling(name, sides[1]))
    return found


def _sampling(name: str, oracles: list[Measured]) -> float:
    """Return the standard deviation of an oracle's number that is due to the finite number of samples."""
    first = oracles[0]
    if name == "relearning":
        return _RELEARNING_SPREAD
    if name == "loss" and first.facts is not None:
        return first.facts.attacks["mia_auc"].standard_error
    sets = [_SETS[name]] if name in _SETS else ["forget", "unseen"]
    return math.sqrt(sum(_binomial(oracles, role) for role in sets))


def _binomial(oracles: list[Measured], role: str) -> float:
    """Return p (1 - p) / n of an accuracy, with p kept away from 0 and 1."""
    size = len(np.asarray(getattr(oracles[0].labels, role)))
    mean = float(np.mean([run.values[f"accuracy_{role}"] for run in oracles]))
    p = (size * mean + 1) / (size + 2)
    return p * (1 - p) / size
