"""Distances of a model's metrics to the oracle's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from unlearning.evaluation.metric import Metric, percent

METRICS = (
    Metric("average_gap", "Gap", "mean distance to the oracle of Forget, Retain, Test and MIA", "low", 0, 100,
           "percentage points", "on Retain and Test, only lower accuracies count", write="{:.1f}".format, brief=True),
    Metric("accuracy_selection", "Held out", "accuracy on test samples held out for selection", "high", 0, 1,
           write=percent),
    Metric("mia_selection", "MIA, held out", "attack by loss against samples held out for selection", "oracle", 0, 1),
    Metric("selection_gap", "Held-out gap",
           "the gap on samples held out for selection; the model with the smallest is delivered", "low", 0, 100,
           "percentage points", write="{:.1f}".format),
    Metric("tug_of_war", "ToW", "tug of war, the product of 1 - d over the distances d of Forget, Retain and Test",
           "high", 0, 1),
)  # fmt: skip

GAP_METRICS = ("accuracy_forget", "accuracy_retain", "accuracy_test", "mia_auc")
"""Metrics in the average gap; the attack is left out if it is unknown."""


def average_gap(values: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Return 100 * the mean distance to the oracle over the names of `oracle`, percentage points in [0, 100].

    The distance is |value - oracle| on the forget set and of the attack, as in SalUn (arXiv:2310.12508). Differs from
    it on the retain and the test set: there higher is better, so only max(0, oracle - value) counts.
    """
    higher_is_better = ("accuracy_retain", "accuracy_test")
    short = {name: target - values[name] for name, target in oracle.items()}
    return 100 * float(np.mean([max(0.0, d) if name in higher_is_better else abs(d) for name, d in short.items()]))


def selection_gap(values: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Return `average_gap` with held-out samples in place of the test set, percentage points."""
    names = {"accuracy_selection": "accuracy_test", "mia_selection": "mia_auc"}
    sides = [
        {names.get(name, name): side[name] for name in ("accuracy_forget", "accuracy_retain", *names) if name in side}
        for side in (values, oracle)
    ]
    return average_gap(sides[0], {name: sides[1][name] for name in sides[1] if name in sides[0]})


def tug_of_war(forget: tuple[float, float], retain: tuple[float, float], test: tuple[float, float]) -> float:
    """Return ToW = (1 - |dFA|) (1 - |dRA|) (1 - |dTA|) in [0, 1], 1 at the oracle (arXiv:2406.01257).

    Each argument is (accuracy of the model, accuracy of the oracle).
    """
    return float(np.prod([1 - abs(ours - target) for ours, target in (forget, retain, test)]))
