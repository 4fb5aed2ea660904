"""Methods in the order of their distance to the oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unlearning.evaluation.intervals import Interval, interval


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


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = [v for v in values if v is not None]
    return interval(known) if known and len(known) == len(values) else None


def _overlap(distance: Interval | None, best: Interval | None) -> bool:
    if distance is None or best is None:
        return False
    low = distance.mean if distance.low is None else distance.low
    high = best.mean if best.high is None else best.high
    return low <= high
