"""Distance of a model's outputs to the oracle's on the same samples."""

from __future__ import annotations

from typing import Literal

import numpy as np

from unlearning.evaluation.metric import Metric
from unlearning.evaluation.scores import Array, Floats, log_probabilities

METRICS = (
    Metric("js_forget", "JS forget", "Jensen-Shannon divergence to the oracle on the forget set", "low", 0, 0.6932,
           "nats"),
    Metric("js_test", "JS test", "Jensen-Shannon divergence to the oracle on the test set", "low", 0, 0.6932, "nats"),
    Metric("activation_forget", "Activation", "l2 distance to the oracle's probabilities on the forget set", "low", 0,
           1.4143, "probability"),
)  # fmt: skip


def js_divergences(logits: Array, oracle: Array) -> Floats:
    """Return JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2, m = (p + q) / 2, of each sample, (n,) nats in [0, ln 2].

    It is summed over classes; the public code of bad teaching and SSD averages over them.
    """
    log_p, log_q = _pair(logits, oracle)
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    kl = [(np.exp(a) * (a - log_m)).sum(1) for a in (log_p, log_q)]
    out: Floats = np.clip((kl[0] + kl[1]) / 2, 0.0, np.log(2))  # rounding may exceed the bounds by 1e-16
    return out


def js_divergence(logits: Array, oracle: Array) -> float:
    """Return the mean of `js_divergences` over samples; logits (n, C) of model and oracle."""
    return float(js_divergences(logits, oracle).mean())


def activation_distance(logits: Array, oracle: Array, norm: Literal["l1", "l2"] = "l2") -> float:
    """Return the mean over samples of ||p - q||, in [0, sqrt 2] for l2, [0, 2] for l1.

    l2 as in bad teaching (arXiv:2205.08096), l1 as in SCRUB (arXiv:2302.09880).
    """
    log_p, log_q = _pair(logits, oracle)
    return float(np.linalg.norm(np.exp(log_p) - np.exp(log_q), ord=1 if norm == "l1" else 2, axis=1).mean())


def _pair(logits: Array, oracle: Array) -> tuple[Floats, Floats]:
    p, q = log_probabilities(logits), log_probabilities(oracle)
    if p.shape != q.shape:
        raise ValueError(f"logits {p.shape} and the oracle's {q.shape} must be of the same samples and classes")
    return p, q
