"""KLOM: the divergence of margins between N unlearned models and N oracles, sample by sample (card 14).

Margins are clipped to +-100 and put into 20 equal bins over the range of both sides together; KL(unlearned || oracle)
with oracle bins floored at 1e-5 (and not renormalised). Of identical histograms 0, of disjoint ones at most ln 1e5.

Differs from the public code (card 7): the last bin is closed, so the largest margin counts. Below about 100 models the
value on equal distributions is far from 0 (3.0 at N = 20, 0.35 at N = 100): `klom_null` gives it for any N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.scores import Array, Floats
from unlearning.evaluation.u_lira import as_ensemble

MIN_MODELS = 2
GOOD_MODELS = 100
_BINS, _CLIP, _FLOOR = 20, 100.0, 1e-5


@dataclass(frozen=True)
class KlomSummary:
    """KLOM over the samples of a set, nats in [-2e-4, ln 1e5]; below 0 since the floored bins add up to more than 1."""

    mean: float
    median: float
    p95: float


def klom(unlearned: Array, oracle: Array) -> Floats:
    """Return KLOM of each sample, (n,) nats, from margins (N, n) of unlearned models and (M, n) of oracles."""
    u, o = (np.clip(as_ensemble(side), -_CLIP, _CLIP) for side in (unlearned, oracle))
    if u.shape[1] != o.shape[1] or min(len(u), len(o)) < MIN_MODELS:
        raise ValueError(f"KLOM needs {MIN_MODELS} models per side on the same samples; got {u.shape} and {o.shape}")
    low, high = np.minimum(u.min(0), o.min(0)), np.maximum(u.max(0), o.max(0))
    p, q = _histograms(u, low, high), np.maximum(_histograms(o, low, high), _FLOOR)
    terms = np.zeros_like(p)
    np.log(np.divide(p, q, where=p > 0, out=terms), where=p > 0, out=terms)
    return np.asarray((p * terms).sum(1), np.float64)


def summarise_klom(values: Array) -> KlomSummary:
    """Return mean, median and 95th percentile of KLOM values (n,)."""
    x = np.asarray(values, np.float64)
    return KlomSummary(float(x.mean()), float(np.median(x)), float(np.percentile(x, 95)))


def klom_null(num_models: int, rng: np.random.Generator, samples: int = 1000) -> KlomSummary:
    """Return KLOM of `num_models` models per side whose margins have one Gaussian distribution, by simulation.

    Bins follow the range, so location and scale do not matter.
    """
    return summarise_klom(klom(rng.standard_normal((num_models, samples)), rng.standard_normal((num_models, samples))))


def klom_halves(oracle: Array, rng: np.random.Generator) -> Floats:
    """Return KLOM of one random half of the oracles against the other, (n,), from margins (N, n), N at least 4.

    The halves have N // 2 models, and KLOM of equal distributions falls with N: an upper bound of the floor at N.
    """
    o = as_ensemble(oracle)
    order, half = rng.permutation(len(o)), len(o) // 2
    return klom(o[order[:half]], o[order[half : 2 * half]])


def _histograms(values: Floats, low: Floats, high: Floats) -> Floats:
    """Return the shares (n, 20) of values (N, n) in equal bins from `low` to `high`, each (n,); the last is closed."""
    num_models, num_samples = values.shape
    width = np.where(high > low, high - low, 1.0)
    bins = np.minimum((_BINS * ((values - low) / width)).astype(np.int64), _BINS - 1)
    flat = (bins + _BINS * np.arange(num_samples)).ravel()
    counts = np.bincount(flat, minlength=_BINS * num_samples).reshape(num_samples, _BINS)
    return np.asarray(counts / num_models, np.float64)
