"""Data classes for measurements of models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Generic, TypeVar

from unlearning.evaluation.flags import Collapsed, OverForgotten
from unlearning.evaluation.noise_floor import Attack

T = TypeVar("T")


@dataclass(frozen=True)
class Splits(Generic[T]):
    """One value for each of the four sets of samples."""

    forget: T
    retain: T
    test: T
    unseen: T
    """Never-seen data that the attacks compare the forget set with; may be the test set."""

    def items(self) -> list[tuple[str, T]]:
        """Return the sets with their names."""
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]


@dataclass(frozen=True)
class ModelFacts:
    """Measurements of one model, without any other model."""

    values: dict[str, float]
    per_class: dict[str, list[float | None]]
    """Accuracy of each class by set; None if the set has no sample of the class."""
    attacks: dict[str, Attack]
    over_forgotten: OverForgotten | None
    """None if never-seen data have no class of the forget set; then `attacks` is empty too."""
    collapsed: Collapsed
