"""`--tune METHOD`: a small random search over the ranges of a method's options, on a seed and samples of its own.

The score of a trial is its gap to a retrained model on the forgotten samples, the kept samples, and the held-out
quarter of the test set. The other test samples, on which results are reported, are not used. The original and the
oracle have a seed that no reported result uses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from fedsim.report.wording import format_duration
from unlearning.api.registry import UnlearningConfig
from unlearning.evaluation.gaps import selection_gap
from unlearning.pipeline.measure import selection_values
from unlearning.pipeline.roles import Roles

TRIALS = 12
SEED_APART = 1_000
"""Offset to the run's seed, far from the seeds of a comparison."""


@dataclass(frozen=True)
class Tuned:
    """The result of a search."""

    options: UnlearningConfig
    """The best options; the first trial has the given options."""
    gap: float
    """Gap of the best options, in percentage points."""
    gap_before: float
    """Gap of the given options, in percentage points."""
    seconds: float
    """Time of all trials, including their measurements."""
    changed: dict[str, Any]
    """The best options that differ from the given ones."""
    trials: int
    """Number of trials."""

    def told(self, training: float) -> str:
        """Return the result and the cost in one line; `training` is the time of original and oracle in seconds."""
        changed = ", ".join(f"{option}={value:g}" for option, value in self.changed.items()) or "no option changed"
        cost = f"{self.trials} trials took {format_duration(self.seconds)}, both models {format_duration(training)}"
        return f"{changed}; held-out gap {self.gap:.1f} points, before {self.gap_before:.1f}; {cost}"


def ranges(config: type[UnlearningConfig]) -> dict[str, tuple[float, float]]:
    """Return the options that have a search range, with its ends."""
    found = {}
    for name, field in config.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "tune" in extra:
            low, high = cast("list[float]", extra["tune"])
            found[name] = (low, high)
    return found


def drawn(options: UnlearningConfig, rng: np.random.Generator) -> UnlearningConfig:
    """Return the options with all that have a range drawn anew, uniformly on a logarithmic scale."""
    values: dict[str, Any] = {}
    for name, (low, high) in ranges(type(options)).items():
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        values[name] = round(value) if isinstance(low, int) else float(f"{value:.2g}")
    return type(options).model_validate({**options.model_dump(), **values})


def tune(
    options: UnlearningConfig,
    apply: Callable[[UnlearningConfig], Classifier],
    oracle: Classifier,
    roles: Roles,
    seed: int,
    trials: int = TRIALS,
) -> Tuned:
    """Return the options whose model is closest to the oracle on held-out samples.

    Parameters
    ----------
    options
        The options of the first trial.
    apply
        Applies the method with some options to the original; returns the model.
    oracle
        A retrained model of the original's seed.
    roles
        The samples; `test` and `unseen` are not used.
    seed
        Seed for drawing the trials.
    trials
        Number of trials.

    Raises
    ------
    FedsimError
        If no option of the method has a search range.
    """
    if not ranges(type(options)):
        raise FedsimError(f"--tune {options.name}: has no option with a search range; leave it out")
    begun, rng = time.perf_counter(), generator(seed, f"tune-{options.name}")
    target = selection_values(oracle, roles, seed)
    candidates = [options, *(drawn(options, rng) for _ in range(trials - 1))]
    gaps = []
    for candidate in candidates:
        values = selection_values(apply(candidate), roles, seed)
        gaps.append(selection_gap(values, target) if values else math.inf)
    best = int(np.argmin(gaps))
    before, after = options.model_dump(), candidates[best].model_dump()
    changed = {name: value for name, value in after.items() if value != before[name]}
    return Tuned(candidates[best], gaps[best], gaps[0], time.perf_counter() - begun, changed, trials)
