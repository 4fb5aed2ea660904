"""Methods in the order of their distance to the oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedsim.errors import nearest
from unlearning.evaluation.catalogue import METRICS
from unlearning.evaluation.intervals import Interval, interval
from unlearning.evaluation.report import ForgettingReport


@dataclass(frozen=True)
class Place:
    """One method in the ranking."""

    method: str
    place: int
    """From 1; equal means share a place."""
    distance: Interval | None
    """None where a seed diverged, or none was measured: last."""
    as_good_as_first: bool
    """Its interval and the first's overlap; with one seed, only where the distances are equal."""
    flags: tuple[str, ...] = ()
    """Raised for any seed."""


def rank(distances: Mapping[str, Sequence[float | None]]) -> list[Place]:
    """Return methods by mean distance, smallest first; `distances` has one number per seed, None for a diverged one."""
    known = {method: _interval(values) for method, values in distances.items()}
    keys = {method: math.inf if d is None else d.mean for method, d in known.items()}
    order = sorted(keys, key=lambda method: (keys[method], method))
    best = known[order[0]] if order else None
    return [
        Place(method, 1 + sum(k < keys[method] for k in keys.values()), known[method], _overlap(known[method], best))
        for method in order
    ]


def rank_reports(reports: Sequence[ForgettingReport], by: str = "average_gap") -> list[Place]:
    """Return the methods of `reports`, one report per method and seed, by a metric that is a distance to the oracle.

    Raises `ValueError` for any other, such as the accuracy on the forget set: a collapsed model would win.
    """
    valid = [name for name, metric in METRICS.items() if metric.distance]
    if by not in valid:
        raise ValueError(f"methods are not ranked by {by!r}, which is no distance to the oracle; {nearest(by, valid)}")
    distances: dict[str, list[float | None]] = {}
    flags: dict[str, dict[str, None]] = {}
    for report in reports:
        distances.setdefault(report.method, []).append(report.metrics[by].value)
        flags.setdefault(report.method, {}).update(dict.fromkeys(report.flags))
    return [Place(p.method, p.place, p.distance, p.as_good_as_first, tuple(flags[p.method])) for p in rank(distances)]


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = [v for v in values if v is not None]
    return interval(known) if known and len(known) == len(values) else None


def _overlap(distance: Interval | None, best: Interval | None) -> bool:
    if distance is None or best is None:
        return False
    low = distance.mean if distance.low is None else distance.low
    high = best.mean if best.high is None else best.high
    return low <= high
