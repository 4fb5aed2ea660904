"""Hyperparameter search: draws points from ranges and lists, and chooses the best on samples that clients hold out.

The points form a scrambled Halton sequence, which covers a range more evenly than independent draws (Critical
Hyper-Parameters: No Random, No Cry, arXiv:1706.03200). They depend on the ranges and lists alone. So a search with more
trials begins with the same points, and can be continued on any machine and in any order of its runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from scipy.stats import qmc

from fedsim.config.run import RunConfig
from fedsim.config.texts import text_kind
from fedsim.errors import FedsimError, nearest
from fedsim.randomness import generator
from fedsim.report.groups import RunGroup, common_names, final, grouped
from fedsim.report.wording import direction
from fedsim.runs.folder import RunFolder

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*")
_WHOLE = re.compile(r"[+-]?\d+")
_BY_FACTORS = 10.0
"""A positive range is sampled on a logarithmic scale if its upper end is at least this many times its lower end."""
_TRIES = 100
"""Points of the sequence to try for each requested point, as several may round to the same values."""
_MEASURED_ON_HELD_OUT = r"validation(_\w+)?/\w+"


@dataclass(frozen=True)
class Search:
    """The metric of a search, and its number of points."""

    metric: str
    trials: int
    """Number of points."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    whole: bool

    def at(self, share: float) -> float | int:
        """Return the number at the position `share` in [0, 1); a float is rounded to three significant digits."""
        low, high = self.low, self.high + self.whole
        by_factors = self.low > 0 and self.high >= _BY_FACTORS * self.low
        value = low * (high / low) ** share if by_factors else low + (high - low) * share
        return min(int(value // 1), int(self.high)) if self.whole else float(f"{value:.3g}")


def read_range(key: str, value: Any) -> Range | None:
    """Parse the value of an option as a range, such as `0.001..1`; return None if it is not a range.

    Raises
    ------
    FedsimError
        If the range is empty.
    """
    match = _RANGE.fullmatch(value) if isinstance(value, str) and text_kind(key) == "other" else None
    if match is None:
        return None
    whole = all(_WHOLE.fullmatch(end) for end in match.groups())
    found = Range(float(match[1]), float(match[2]), whole)
    if not found.low < found.high:
        raise FedsimError(f"--set {key}={value}: must go from a number to a greater one, such as {key}=0.001..1")
    return found


def draw(axes: Mapping[str, Range | Sequence[Any]], trials: int) -> list[dict[str, Any]]:
    """Return `trials` distinct points, or fewer if there are not that many.

    Parameters
    ----------
    axes
        The range or the list of values of each option.
    trials
        Number of points.
    """
    sequence = qmc.Halton(len(axes), seed=generator(0, "search"))
    points: dict[str, dict[str, Any]] = {}
    for shares in sequence.random(trials * _TRIES):
        point = {
            key: axis.at(share) if isinstance(axis, Range) else axis[int(share * len(axis))]
            for (key, axis), share in zip(axes.items(), shares.tolist(), strict=True)
        }
        points.setdefault(repr(point), point)
        if len(points) == trials:
            break
    return list(points.values())


def require_held_out(metric: str, configs: Mapping[str, RunConfig]) -> None:
    """Require that a search is judged on samples that clients hold out.

    Raises
    ------
    FedsimError
        If the metric is measured on other samples, or a run holds no samples out.
    """
    how = "give validation/accuracy, with --set data.validation_fraction=0.2 for clients to hold samples out"
    if not re.fullmatch(_MEASURED_ON_HELD_OUT, metric):
        tested = metric.startswith(("global", "clients", "unseen"))
        why = "is measured on the test set, which chooses nothing" if tested else "is not measured on held-out samples"
        raise FedsimError(f"--tune {metric}: {why}; {how}")
    if not all(config.data.validation_fraction for config in configs.values()):
        raise FedsimError(f"--tune {metric}: clients hold no samples out; give --set data.validation_fraction=0.2")


@dataclass(frozen=True)
class SearchOutcome:
    """The points of a search in order, and its cost."""

    groups: Sequence[RunGroup]
    """The runs of each point, the best point first; points with a failed or diverged run come last."""
    value: float
    """The metric of the best point, a mean over its seeds."""
    rounds: int
    """Rounds of all runs, including failed ones."""
    seconds: float
    """Training time of all runs."""
    bytes: int
    """Traffic of all runs, to clients and back."""

    def cost(self) -> str:
        """Return the cost as a phrase."""
        runs = sum(len(group.runs) for group in self.groups)
        return (
            f"{len(self.groups)} points, {runs} runs, {self.rounds:,} rounds, {self.seconds:,.0f} s of training, "
            f"{self.bytes / 1e6:,.1f} MB sent to clients and back"
        )


def judge(runs: Sequence[RunFolder], metric: str, seeds: int) -> SearchOutcome:
    """Rank the points of a search by the final value of a metric, averaged over `seeds` seeds.

    Raises
    ------
    FedsimError
        If no point has this metric for all of its seeds.
    """
    groups = grouped(runs)
    sign = -1.0 if direction(metric) == "lower" else 1.0

    def value(group: RunGroup) -> float:
        values = group.values(final(metric))
        whole = len(values) == seeds and all(run.status == "finished" for run in group.runs)
        return float(np.mean(list(values.values()))) if whole else math.nan

    scored = sorted(groups, key=lambda group: -sign * value(group) if math.isfinite(value(group)) else math.inf)
    if not scored or math.isnan(value(scored[0])):
        known = [name for name in common_names(groups) if name.startswith("validation")]
        raise FedsimError(f"--tune {metric}: no point has it for all of its seeds; {nearest(metric, known)}")
    rows = [run.metrics for run in runs]
    return SearchOutcome(
        scored, value(scored[0]), sum(run.rounds_done for run in runs),
        sum(of[-1].time_s or 0.0 for of in rows if of),
        sum((row.bytes_down or 0) + (row.bytes_up or 0) for of in rows for row in of),
    )  # fmt: skip


def best_yaml(found: SearchOutcome, metric: str, config: RunConfig) -> str:
    """Return the best point as a file for `fedsim run --config`; `config` is the configuration of one of its runs."""
    options = {key: value for key, value in yaml.safe_load(config.to_yaml()).items() if key not in ("name", "seed")}
    told = f"# {found.groups[0].label}: {metric} {found.value:.4g}, the best of {found.cost()}.\n"
    return told + yaml.safe_dump(options, sort_keys=False)
