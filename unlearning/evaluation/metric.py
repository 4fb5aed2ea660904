"""The description of a metric; each is declared in the file with its mathematics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def percent(value: float) -> str:
    """Return a fraction as text, in percent."""
    return f"{100 * value:.1f} %"


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its column, its interpretation, and its requirements."""

    name: str
    head: str
    """The title of its column."""
    title: str
    """A short description."""
    better: Literal["oracle", "low", "high"]
    """Best where it is near the oracle's value, low, or high."""
    low: float
    high: float | None
    """The range of its values; None is unbounded."""
    unit: str = "fraction"
    reading: str = ""
    """How to interpret it, and when it misleads."""
    write: Callable[[float], str] = "{:.3f}".format
    brief: bool = False
    """Whether the table on the terminal contains it."""
    cost: bool = False
    """Whether it is a cost of the model and not a quality."""
    models: int = 1
    """Number of oracles, and of unlearned models, that it needs; 1 for a metric of a single model."""
    steady_from: int = 1
    """Number of models of each kind above which its noise is small."""

    @property
    def meaning(self) -> str:
        """Description and interpretation in one line."""
        best = {"oracle": "best near the oracle's", "low": "low is best", "high": "high is best"}[self.better]
        unit = self.unit if self.unit != "fraction" else ""
        few = f"steady from about {self.steady_from} models of each kind" if self.steady_from > 1 else ""
        return "; ".join(part for part in (self.title, unit, best, self.reading, few) if part)
