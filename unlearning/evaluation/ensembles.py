"""The metrics that compare distributions of models: N unlearned ones and N oracles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation import epsilon_score
from unlearning.evaluation.epsilon_score import forgetting_quality
from unlearning.evaluation.klom import MIN_MODELS, klom, klom_null, summarise_klom
from unlearning.evaluation.scores import Floats
from unlearning.evaluation.u_lira import MIN_PAIRS, as_ensemble, u_lira

_NULL_SAMPLES = 300


@dataclass(frozen=True)
class Ensembles:
    """Margins (N, n_s), from `scores.margins`, by set: "forget", and if known "retain" and "test"."""

    unlearned: dict[str, Floats]
    """Margins of models trained with the forget set, each with its own seed, and then unlearned."""
    oracles: dict[str, Floats]
    """Margins of models that never saw the forget set."""

    @property
    def num_unlearned(self) -> int:
        """Return the number of unlearned models."""
        return len(self.unlearned["forget"])

    @property
    def num_oracles(self) -> int:
        """Return the number of oracles."""
        return len(self.oracles["forget"])


@dataclass(frozen=True)
class Measurement:
    """One metric over many unlearned models and oracles, with reference values."""

    value: float
    null: float | None = None
    """The value for equal distributions: of halves of the oracles, or of simulated models."""
    low: float | None = None
    """Lower end of the 95 % interval, `high` is the upper end; None if unknown."""
    high: float | None = None
    error: float | None = None
    """Standard error, if known."""


def measure_ensembles(ensembles: Ensembles, rng: np.random.Generator) -> dict[str, Measurement]:
    """Return KLOM, U-LiRA and forgetting quality, each if there are enough models.

    The first N of each side are used if the numbers differ. `null` is the value for equal distributions: for KLOM and
    forgetting quality simulated with Gaussian margins at the same N, for U-LiRA that of two halves of the oracles.
    """
    pairs = min(ensembles.num_unlearned, ensembles.num_oracles)
    sides = {
        name: (as_ensemble(ensembles.unlearned[name])[:pairs], as_ensemble(ensembles.oracles[name])[:pairs])
        for name in ensembles.unlearned
    }
    out: dict[str, Measurement] = {}
    if pairs >= MIN_MODELS:
        out |= _klom(sides, pairs, rng)
    if pairs >= MIN_PAIRS:
        out |= _u_lira(*sides["forget"], rng)
    if pairs >= epsilon_score.MIN_MODELS:
        out["forgetting_quality"] = _quality(*sides["forget"], rng)
    return out


def _klom(sides: dict[str, tuple[Floats, Floats]], pairs: int, rng: np.random.Generator) -> dict[str, Measurement]:
    null = klom_null(pairs, rng, _NULL_SAMPLES)
    out = {}
    for name, (unlearned, oracles) in sides.items():
        value = summarise_klom(klom(unlearned, oracles))
        out[f"klom_{name}"] = Measurement(value.mean, null.mean)
        if name == "forget":
            out["klom_forget_p95"] = Measurement(value.p95, null.p95)
    return out


def _u_lira(unlearned: Floats, oracles: Floats, rng: np.random.Generator) -> dict[str, Measurement]:
    found = u_lira(unlearned, oracles, rng)
    attack = found.attack
    half = 1.96 * attack.standard_error
    null = attack.floor.mean if attack.floor else None
    return {
        "u_lira": Measurement(
            attack.value, null, max(0.0, attack.value - half), min(1.0, attack.value + half), attack.standard_error
        ),
        "u_lira_auc": Measurement(found.auc),
    }


def _quality(unlearned: Floats, oracles: Floats, rng: np.random.Generator) -> Measurement:
    alike = rng.standard_normal((2, len(oracles), _NULL_SAMPLES))
    return Measurement(forgetting_quality(unlearned, oracles), forgetting_quality(alike[0], alike[1]))
