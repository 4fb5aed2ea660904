"""`--tune METHOD`: a small random search over a method's own option ranges, on a seed and on samples kept apart.

Every trial is judged by the gap to a retrained model on the forgotten and kept samples and on the held-out quarter of
the test set, never on the rest, of which figures are reported. Original and oracle are of a seed that no figure has.
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
"""Added to the run's seed: far from those of a comparison."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found."""

    options: UnlearningConfig
    """The best of all trials; the first trial is the options that it began with."""
    gap: float
    """Of these, percentage points, and `gap_before` of the first trial."""
    gap_before: float
    seconds: float
    """Of all trials, their measurements included."""
    changed: dict[str, Any]
    """The options that differ from those it began with."""
    trials: int

    def told(self, training: float) -> str:
        """Return in a line what was found and what it cost; `training` is the seconds of original and oracle."""
        changed = ", ".join(f"{option}={value:g}" for option, value in self.changed.items()) or "the options it had"
        cost = f"{self.trials} trials took {format_duration(self.seconds)}, both models {format_duration(training)}"
        return f"{changed}; held-out gap {self.gap:.1f} points, before {self.gap_before:.1f}; {cost}"


def ranges(config: type[UnlearningConfig]) -> dict[str, tuple[float, float]]:
    """Return the options that have a range to search, with its ends."""
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
    """Return the options whose model comes nearest to the oracle on what is held out.

    Parameters
    ----------
    options
        Where the search begins.
    apply
        Gives the model that the method makes of the original with some options.
    oracle
        A retrained model of the original's seed.
    roles
        Whose `selection` is looked at, and neither `test` nor `unseen`.
    seed
        Draws the trials.

    Raises
    ------
    FedsimError
        If the method has nothing to tune.
    """
    if not ranges(type(options)):
        raise FedsimError(f"--tune {options.name}: has no option with a range to search; leave it out")
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
