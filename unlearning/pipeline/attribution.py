"""The attribution of predictions to parts of the training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unlearning.evaluation.lds import Lds
from unlearning.evaluation.scores import Floats
from unlearning.pipeline.ensemble import IntArray

Unit = Literal["sample", "client"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """The attribution of predictions to units of the training data."""

    scores: Floats
    """(T, U): the increase of a target's margin that is due to a unit; negative if the unit is harmful."""
    targets: IntArray
    """(T,) test rows."""
    units: IntArray
    """(U,) training rows, or clients."""
    unit: Unit
    method: str
    models: int
    """Number of checkpoints of TRAK, or of subset models."""
    of: str
    lds: Lds | None = None


def extremes(scores: Floats, count: int) -> tuple[IntArray, IntArray]:
    """Return the indices of the up to `count` highest positive and lowest negative of scores (U,), from the extreme."""
    order = np.argsort(-scores, kind="stable")
    lowest = order[::-1]
    return order[scores[order] > 0][:count], lowest[scores[lowest] < 0][:count]


def summary(made: Attribution) -> list[str]:
    """Return a summary of the attribution, in lines."""
    mean = made.scores.mean(0)
    name = "client" if made.unit == "client" else "training sample"
    lines = []
    for title, units in zip(("helpful", "harmful"), extremes(mean, 5), strict=True):
        shown = ", ".join(f"{name} {made.units[u]} ({mean[u]:+.3g})" for u in units)
        lines.append(f"most {title}: {shown or 'none'}")
    if made.lds is not None:
        told = made.lds
        lines.append(f"LDS {told.value:.3f} [{told.low:.3f}, {told.high:.3f}] over {told.models} retrained models")
    return lines
