"""KLOM: the divergence of margins between N unlearned models and N oracles, sample by sample.

Margins are clipped to +-100 and put into 20 equal bins over the common range of both sides; outliers go into the
outermost bins. KLOM is KL(unlearned || oracle), with oracle bins floored at 1e-5 (and not renormalised). It is 0 for
identical histograms, and at most ln 1e5 for disjoint ones.

Differs from the public code: the last bin is closed, so the largest margin counts. The range is that of models that are
not outliers, because one diverged model would put all others into one bin. Below about 100 models the value on equal
distributions is far from 0 (3.0 at N = 20, 0.35 at N = 100): `klom_null` computes it for any N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.metric import Metric
from unlearning.evaluation.scores import Array, Floats
from unlearning.evaluation.u_lira import as_ensemble

MIN_MODELS = 2


def _klom(name: str, head: str, split: str) -> Metric:
    return Metric(name, head, f"KLOM on the {split}", "low", -2e-4, 11.52, "nats",
                  "with few models, it is far above 0 even for equal distributions, so compare it with that value",
                  models=MIN_MODELS, steady_from=100)  # fmt: skip


METRICS = (
    _klom("klom_forget", "KLOM forget", "forget set, mean over samples"),
    _klom("klom_forget_p95", "KLOM 95 %", "forget set, 95th percentile of samples"),
    _klom("klom_retain", "KLOM retain", "retain set, mean over samples"),
    _klom("klom_test", "KLOM test", "test set, mean over samples"),
)

_BINS, _CLIP, _FLOOR = 20, 100.0, 1e-5


@dataclass(frozen=True)
class KlomSummary:
    """KLOM over the samples of a set, nats in [-2e-4, ln 1e5].

    It can be below 0 as the floored bins sum to more than 1.
    """

    mean: float
    median: float
    p95: float


def klom(unlearned: Array, oracle: Array) -> Floats:
    """Return KLOM of each sample, (n,) nats, from margins (N, n) of unlearned models and (M, n) of oracles."""
    u, o = (np.clip(as_ensemble(side), -_CLIP, _CLIP) for side in (unlearned, oracle))
    if u.shape[1] != o.shape[1] or min(len(u), len(o)) < MIN_MODELS:
        raise ValueError(f"KLOM needs {MIN_MODELS} models per side on the same samples; got {u.shape} and {o.shape}")
    ranges = [_range(side) for side in (u, o)]  # per side: a value far from the other side is no outlier
    low, high = np.minimum(*(r[0] for r in ranges)), np.maximum(*(r[1] for r in ranges))
    p, q = _histograms(u, low, high), np.maximum(_histograms(o, low, high), _FLOOR)
    terms = np.zeros_like(p)
    np.log(np.divide(p, q, where=p > 0, out=terms), where=p > 0, out=terms)
    return np.asarray((p * terms).sum(1), np.float64)


def summarise_klom(values: Array) -> KlomSummary:
    """Return mean, median and 95th percentile of KLOM values (n,)."""
    x = np.asarray(values, np.float64)
    return KlomSummary(float(x.mean()), float(np.median(x)), float(np.percentile(x, 95)))


def klom_null(num_models: int, rng: np.random.Generator, samples: int = 1000) -> KlomSummary:
    """Return KLOM for `num_models` models per side whose margins have the same Gaussian distribution, by simulation.

    Bins follow the range, so location and scale do not matter.
    """
    return summarise_klom(klom(rng.standard_normal((num_models, samples)), rng.standard_normal((num_models, samples))))


def _range(values: Floats) -> tuple[Floats, Floats]:
    """Return the smallest and the largest of the values (N, n) of each sample that are not outliers, each (n,).

    Outliers are more than three times the interquartile range beyond a quartile (Tukey's far-out points).
    """
    first, third = np.percentile(values, [25, 75], axis=0)
    reach = 3 * (third - first)
    inside = (values >= first - reach) & (values <= third + reach)
    low, high = np.where(inside, values, np.inf).min(0), np.where(inside, values, -np.inf).max(0)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def _histograms(values: Floats, low: Floats, high: Floats) -> Floats:
    """Return the shares (n, 20) of values (N, n) in equal bins from `low` to `high`, each (n,); the last is closed."""
    num_models, num_samples = values.shape
    width = high - low
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        place = _BINS * ((values - low) / width)
    place = np.where(width > 0, place, np.where(values > high, _BINS, 0))  # a range may be a single point
    bins = np.clip(place, 0, _BINS - 1).astype(np.int64)
    flat = (bins + _BINS * np.arange(num_samples)).ravel()
    counts = np.bincount(flat, minlength=_BINS * num_samples).reshape(num_samples, _BINS)
    return np.asarray(counts / num_models, np.float64)
