"""How far a model's numbers lie from the oracle's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

GAP_METRICS = ("accuracy_forget", "accuracy_retain", "accuracy_test", "mia_auc")
"""What the average gap is over; the attack is left out where it is not known."""


def gaps(values: Mapping[str, float], oracle: Mapping[str, float]) -> dict[str, float]:
    """Return value - oracle of each name of `oracle`; positive where the model's number is the larger."""
    return {name: values[name] - target for name, target in oracle.items()}


def average_gap(values: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Return 100 * mean |value - oracle|, percentage points in [0, 100] for fractions (card 2, arXiv:2310.12508).

    The card's four names are the accuracies on forget, retain and test and one attack; |dUA| = |dFA|.
    """
    return 100 * float(np.mean(np.abs(list(gaps(values, oracle).values()))))


def tug_of_war(forget: tuple[float, float], retain: tuple[float, float], test: tuple[float, float]) -> float:
    """Return ToW = (1 - |dFA|) (1 - |dRA|) (1 - |dTA|) in [0, 1], 1 at the oracle (card 3, arXiv:2406.01257).

    Each argument is (accuracy of the model, accuracy of the oracle).
    """
    return float(np.prod([1 - abs(ours - target) for ours, target in (forget, retain, test)]))
