"""What is known of the forgetting of one unlearned model, ready for JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from unlearning.evaluation.flags import Collapsed, OverForgotten
from unlearning.evaluation.noise_floor import Attack

T = TypeVar("T")


@dataclass(frozen=True)
class Splits(Generic[T]):
    """One thing for each of the four sets of samples."""

    forget: T
    retain: T
    test: T
    unseen: T
    """Never-seen data that the attacks compare the forget set with; may be the test set."""

    def items(self) -> list[tuple[str, T]]:
        """Return the sets with their names."""
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]


@dataclass(frozen=True)
class Trio(Generic[T]):
    """One thing for each of the three models."""

    unlearned: T
    original: T
    oracle: T


@dataclass(frozen=True)
class Measurement:
    """One metric of `catalogue.METRICS`: the unlearned model's value and what to read it against."""

    value: float | None
    """None where it is not known; `note` says why."""
    original: float | None = None
    oracle: float | None = None
    """The target: mean over oracles. Of a distance to the oracle, what oracles have among themselves: of metrics over
    many oracles one half against the other, of N // 2 models each."""
    oracle_sd: float | None = None
    """Over oracles; None for fewer than two."""
    gap: float | None = None
    """`value` - `oracle`; of metrics over many oracles `value` - `null`."""
    standard_error: float | None = None
    """Sampling noise of `value`, or, of an attack, of its chance value."""
    null: float | None = None
    """The value on what is alike by construction: never-seen halves, halves of the oracles, or models simulated so."""
    note: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """What one model does, without looking at another."""

    values: dict[str, float]
    per_class: dict[str, list[float | None]]
    """Accuracy of each class by set; None where the set has no sample of it."""
    attacks: dict[str, Attack]
    over_forgotten: OverForgotten | None
    """None where never-seen data have no class of the forget set; then `attacks` is empty too."""
    collapsed: Collapsed


@dataclass(frozen=True)
class ForgettingReport:
    """One unlearned model next to the original and the oracle."""

    method: str
    sizes: dict[str, int]
    """Samples of each set, and `matched`: of each side of the attacks, equal classes on both."""
    num_oracles: int
    num_unlearned: int
    """Unlearned models behind the metrics that need several oracles; 1 where there are none."""
    diverged: bool
    """The unlearned model's logits are not finite; nothing else of it is known."""
    metrics: dict[str, Measurement]
    unlearned: ModelFacts | None
    original: ModelFacts
    oracle: ModelFacts
    """Of the first oracle."""

    @property
    def flags(self) -> list[str]:
        """Return the names of the flags that are up; the oracle has its own to compare with."""
        if self.unlearned is None:
            return ["diverged"]
        raised = {"over-forgotten": self.unlearned.over_forgotten, "collapsed": self.unlearned.collapsed}
        return [name for name, judged in raised.items() if judged is not None and judged.flag]

    def values(self) -> dict[str, float | None]:
        """Return the unlearned model's value of each metric, for `intervals.over_seeds`."""
        return {name: measurement.value for name, measurement in self.metrics.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it, `flags` included; no number in it is NaN or infinite."""
        return {**dataclasses.asdict(self), "flags": self.flags}
