"""The metrics that compare distributions of models: N unlearned ones and N oracles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unlearning.evaluation.catalogue import METRICS, many_oracle_metrics
from unlearning.evaluation.epsilon_score import forgetting_quality
from unlearning.evaluation.klom import MIN_MODELS, klom, klom_halves, klom_null, summarise_klom
from unlearning.evaluation.report import Measurement
from unlearning.evaluation.scores import Floats
from unlearning.evaluation.u_lira import as_ensemble, u_lira

_NULL_SAMPLES = 300


@dataclass(frozen=True)
class Ensembles:
    """Margins (N, n_s), from `scores.margins`, by name of the set: "forget", and "retain" and "test" where known."""

    unlearned: dict[str, Floats]
    """Of models trained with the forget set, each with its own seed, and then unlearned."""
    oracles: dict[str, Floats]
    """Of models that never saw it."""

    @property
    def num_unlearned(self) -> int:
        """Return how many unlearned models there are."""
        return len(self.unlearned["forget"])

    @property
    def num_oracles(self) -> int:
        """Return how many oracles there are."""
        return len(self.oracles["forget"])


def measure_ensembles(ensembles: Ensembles | None, rng: np.random.Generator) -> dict[str, Measurement]:
    """Return KLOM, U-LiRA and forgetting quality, or, for each, how many models it lacks.

    Uses the first N of each side where they differ in number. `null` is the value of alike models: of KLOM and
    forgetting quality simulated with Gaussian margins at the same N, of U-LiRA that of two halves of the oracles.
    """
    pairs = min(ensembles.num_unlearned, ensembles.num_oracles) if ensembles else 1
    out: dict[str, Measurement] = {}
    if ensembles is not None and pairs >= min(many_oracle_metrics().values()):
        sides = {
            name: (as_ensemble(ensembles.unlearned[name])[:pairs], as_ensemble(ensembles.oracles[name])[:pairs])
            for name in ensembles.unlearned
        }
        out |= _klom(sides, pairs, rng)
        if pairs >= METRICS["u_lira"].oracles:
            out |= _u_lira(*sides["forget"], rng)
        if pairs >= METRICS["forgetting_quality"].oracles:
            out["forgetting_quality"] = _quality(*sides["forget"], rng)
    return {name: _noted(out.get(name), pairs, name) for name in many_oracle_metrics()}


def _klom(sides: dict[str, tuple[Floats, Floats]], pairs: int, rng: np.random.Generator) -> dict[str, Measurement]:
    null = klom_null(pairs, rng, _NULL_SAMPLES)
    out = {}
    for name, (unlearned, oracles) in sides.items():
        value = summarise_klom(klom(unlearned, oracles))
        among = summarise_klom(klom_halves(oracles, rng)) if pairs >= 2 * MIN_MODELS else None
        out[f"klom_{name}"] = _measurement(value.mean, among.mean if among else None, null.mean)
        if name == "forget":
            out["klom_forget_p95"] = _measurement(value.p95, among.p95 if among else None, null.p95)
    return out


def _measurement(value: float, among_oracles: float | None, null: float) -> Measurement:
    return Measurement(value, oracle=among_oracles, gap=value - null, null=null)


def _u_lira(unlearned: Floats, oracles: Floats, rng: np.random.Generator) -> dict[str, Measurement]:
    found = u_lira(unlearned, oracles, rng)
    attack = found.attack
    null = attack.floor.mean if attack.floor else None
    return {
        "u_lira": Measurement(
            attack.value, oracle=0.5, gap=attack.value - 0.5, standard_error=attack.standard_error, null=null
        ),
        "u_lira_auc": Measurement(found.auc, oracle=0.5, gap=found.auc - 0.5),
    }


def _quality(unlearned: Floats, oracles: Floats, rng: np.random.Generator) -> Measurement:
    half = len(oracles) // 2
    halves = oracles[:half], oracles[half : 2 * half]
    among = forgetting_quality(*halves) if half >= METRICS["forgetting_quality"].oracles else None
    alike = rng.standard_normal((2, len(oracles), _NULL_SAMPLES))
    return _measurement(forgetting_quality(unlearned, oracles), among, forgetting_quality(alike[0], alike[1]))


def _noted(found: Measurement | None, pairs: int, name: str) -> Measurement:
    metric = METRICS[name]
    if found is None:
        why = f"needs {metric.oracles} oracles and as many unlearned models; got {pairs}"
        return Measurement(None, note=why if pairs < metric.oracles else "margins of this set were not given")
    if pairs < metric.steady_from:
        return replace(found, note=f"{pairs} models per side; steady from about {metric.steady_from}")
    return found
