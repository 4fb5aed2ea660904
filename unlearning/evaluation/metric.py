"""What a reader needs to know of a metric; each is declared in the file that has its mathematics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def percent(value: float) -> str:
    """Return a fraction as text, in percent."""
    return f"{100 * value:.1f} %"


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its column, how it is read, and what it needs."""

    name: str
    head: str
    """The title of its column."""
    title: str
    """What it is, in a few words."""
    better: Literal["oracle", "low", "high"]
    """Best where it is near the oracle's value, low, or high."""
    low: float
    high: float | None
    """The range of its values; None is unbounded."""
    unit: str = "fraction"
    reading: str = ""
    """How it is read, and when it misleads."""
    write: Callable[[float], str] = "{:.3f}".format
    brief: bool = False
    """Whether it is in the terminal's table too."""
    cost: bool = False
    """Whether it tells what a model cost, not what it does."""
    models: int = 1
    """Oracles and as many unlearned models that it needs; 1 for a metric of a single model."""
    steady_from: int = 1
    """Models of each kind from which on its noise is small."""

    @property
    def meaning(self) -> str:
        """What it is and how it is read, in one line."""
        best = {"oracle": "best near the oracle's", "low": "low is best", "high": "high is best"}[self.better]
        unit = self.unit if self.unit != "fraction" else ""
        few = f"steady from about {self.steady_from} models of each kind" if self.steady_from > 1 else ""
        return "; ".join(part for part in (self.title, unit, best, self.reading, few) if part)
