"""Mean, spread and t-interval of a metric over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t


@dataclass(frozen=True)
class Interval:
    """One metric over seeds; a single seed has a mean and no interval."""

    mean: float
    sd: float | None
    """Standard deviation over seeds, with n - 1."""
    low: float | None
    high: float | None
    seeds: int


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return mean +- t_{n-1} sd / sqrt(n), n at least 1, for independent seeds and `confidence` in (0, 1)."""
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"an interval needs one finite value per seed; got {list(values)}")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, None, None, None, 1)
    sd = float(x.std(ddof=1))
    half = float(t.ppf((1 + confidence) / 2, len(x) - 1)) * sd / math.sqrt(len(x))
    return Interval(mean, sd, mean - half, mean + half, len(x))


def over_seeds(rows: Sequence[Mapping[str, float | None]], confidence: float = 0.95) -> dict[str, Interval]:
    """Return the interval of each metric over `rows`, one per seed; seeds with the value None are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    known = {name: [v for row in rows if (v := row.get(name)) is not None] for name in names}
    return {name: interval(values, confidence) for name, values in known.items() if values}
