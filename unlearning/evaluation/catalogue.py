"""All metrics of the comparison, in the order of the tables; each is declared in its own file."""

from __future__ import annotations

from unlearning.evaluation import (
    accuracies,
    backdoor,
    batch_norm,
    class_means,
    divergence,
    efficiency,
    epsilon_score,
    gaps,
    harmonic_mean,
    klom,
    logistic_attack,
    loss_attack,
    nomus,
    personal,
    relearn,
    u_lira,
)
from unlearning.evaluation.metric import Metric

_FILES = (
    accuracies, harmonic_mean, loss_attack, gaps, backdoor, personal, class_means, batch_norm, relearn, logistic_attack,
    divergence, nomus, klom, u_lira, epsilon_score, efficiency,
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for file in _FILES for metric in file.METRICS}
"""By name, in the order shown."""

FEDERATION_COSTS = ("rounds", "clients_woken", "traffic_mb", "history_mb", "averaging_error")
"""Metrics of a model's costs for the federation."""
