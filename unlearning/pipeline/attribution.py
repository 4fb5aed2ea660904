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


def summary(made: Attribution) -> list[str]:
    """Return a summary of the attribution, in lines."""
    mean = made.scores.mean(0)
    order = np.argsort(-mean, kind="stable")
    name = "client" if made.unit == "client" else "training sample"
    shown = [f"{name} {made.units[u]} ({mean[u]:+.3g})" for u in order]
    lines = [f"most helpful: {', '.join(shown[:5])}", f"most harmful: {', '.join(shown[::-1][:5])}"]
    if made.lds is not None:
        told = made.lds
        lines.append(f"LDS {told.value:.3f} [{told.low:.3f}, {told.high:.3f}] over {told.models} retrained models")
    return lines
