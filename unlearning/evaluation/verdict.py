"""Verdicts: whether a model has forgotten, from differences that are larger than chance.

An attack gives one number per model. Over S seeds, a model's numbers v_1..v_S are compared with those of S oracles,
models retrained without the forgotten samples:
    d = mean v - mean o,   s^2 = (n_0 s_0^2 + (S - 1) s_o^2) / (n_0 + S - 1),
with s_o the oracles' own standard deviation over seeds, and s_0 that due to the finite number of samples, which counts
as n_0 = 4 models: three oracles alone give a poor estimate of their spread (a moderated t-test, Smyth 2004,
doi:10.2202/1544-6115.1027). The model is distinguished if |d| > t s sqrt(2 / S), or if one of its seeds has
|v_i - mean o| > t s sqrt(1 + 1 / S), with t the quantile of n_0 + S - 1 degrees of freedom at 5 % over all comparisons
together (Bonferroni). The model's own spread is not used, so a method does not gain by varying.

With N >= 16 models of each kind, attacks on their distributions count as well. They give one number for all models with
its standard error; it is compared with chance by t with N - 1 degrees of freedom at the same level.

forgotten            no attack that distinguishes the original distinguishes the model
not forgotten        such an attack still does
damaged              worse than the oracles on kept or test samples, by more than chance and by more than a point
cannot be told here  no attack distinguishes the original from the oracles, so no method can show anything
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t as student

Label = Literal["forgotten", "not forgotten", "damaged", "cannot be told here"]

MIN_SEEDS = 2
"""With fewer seeds the spread of retrained models is unknown, and there is no verdict."""
_LEVEL = 0.05
_PRIOR_MODELS = 4
_TOLERANCE = 0.01
MIN_DISTRIBUTION = 16
"""Number of models of each kind above which an attack on their distributions counts."""


@dataclass(frozen=True)
class Evidence:
    """One number per model and seed: for the judged model, the oracles, and the originals."""

    model: Sequence[float]
    oracle: Sequence[float]
    original: Sequence[float]
    sampling: float
    """s_0, the standard deviation that is due to the finite number of samples."""

    def of_model(self, level: float) -> Difference:
        """Return the difference of the model to the oracles."""
        return compare(self.model, self.oracle, self.sampling, level)

    def of_original(self, level: float) -> Difference:
        """Return the difference of the original to the oracles."""
        return compare(self.original, self.oracle, self.sampling, level)


@dataclass(frozen=True)
class OfDistribution:
    """One number of N models against N oracles: how well they can be told apart, beyond chance, and the direction."""

    model: float
    """Excess over chance; negative if the model is beyond the oracles, seen from the original."""
    model_error: float
    original: float
    original_error: float
    models: int
    """N."""

    def of_model(self, level: float) -> Difference:
        """Return the difference of the models to the oracles."""
        return Difference(self.model, self._chance(level) * self.model_error, 0)

    def of_original(self, level: float) -> Difference:
        """Return the difference of the originals to the oracles."""
        return Difference(self.original, self._chance(level) * self.original_error, 0)

    def _chance(self, level: float) -> float:
        return float(student.ppf(1 - level / 2, self.models - 1))


@dataclass(frozen=True)
class Verdict:
    """The verdict on a model."""

    label: Label
    why: str
    """The reason, in a sentence: which attacks, or which loss."""


@dataclass(frozen=True)
class Difference:
    """The difference of a model's numbers to the oracles'."""

    mean: float
    """mean v - mean o."""
    chance: float
    """The largest |mean| that is compatible with chance."""
    seeds: int
    """Number of seeds that differ on their own."""

    @property
    def found(self) -> bool:
        """Whether the difference is larger than chance."""
        return abs(self.mean) > self.chance or self.seeds > 0


def compare(values: Sequence[float], oracle: Sequence[float], sampling: float, level: float) -> Difference:
    """Return the difference of (S,) values to (S,) oracles, judged at `level`, the chance of a false find."""
    v, o = np.asarray(values, np.float64), np.asarray(oracle, np.float64)
    degrees = _PRIOR_MODELS + len(o) - 1
    own = float(o.var(ddof=1)) if len(o) > 1 else 0.0
    sd = math.sqrt((_PRIOR_MODELS * sampling**2 + (len(o) - 1) * own) / degrees)
    # Half of the level is for the mean, half for the single seeds; each is two-sided.
    of_mean, of_seed = (float(student.ppf(1 - level / 2 / (2 * k), degrees)) for k in (1, len(v)))
    alone = np.abs(v - o.mean()) > of_seed * sd * math.sqrt(1 + 1 / len(o))
    return Difference(float(v.mean() - o.mean()), of_mean * sd * math.sqrt(1 / len(v) + 1 / len(o)), int(alone.sum()))


def judge(attacks: Mapping[str, Evidence | OfDistribution], uses: Mapping[str, Evidence]) -> Verdict:
    """Return the verdict on one model from attacks and from accuracies that it must not lose, by name."""
    for name, use in uses.items():
        lost = use.of_model(_LEVEL / len(uses))
        if lost.mean < 0 and lost.found and -lost.mean > _TOLERANCE:
            return Verdict("damaged", f"{name} is {-100 * lost.mean:.1f} points below retraining")
    originals = {name: attack.of_original(_LEVEL / len(attacks)) for name, attack in attacks.items()}
    live = [name for name, original in originals.items() if original.found]
    if not live:
        return Verdict("cannot be told here", "no attack tells the original from retraining")
    words = []
    for name in live:
        found = attacks[name].of_model(_LEVEL / len(live))
        if not found.found:
            continue
        towards = np.sign(found.mean) == np.sign(originals[name].mean)
        words.append(name if towards else f"{name} (beyond retraining: over-forgotten)")
    if words:
        return Verdict("not forgotten", f"still told from retraining by {', '.join(words)}")
    return Verdict("forgotten", f"not told from retraining by what tells the original apart: {', '.join(live)}")
