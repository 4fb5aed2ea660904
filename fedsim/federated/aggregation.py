"""Weighted means of tensors and of metrics."""

from __future__ import annotations

import torch
from flwr.app import MetricRecord
from torch import Tensor

from fedsim.flower.records import Tensors
from fedsim.flower.wire import NUM_EXAMPLES, WEIGHT


class WeightedMean:
    """A running weighted mean of named tensors: m <- m + (w_i / sum_{j <= i} w_j) (x_i - m).

    It uses one accumulator, in the summands' dtype, or in float64 for integers. Entries that are equal in all summands
    keep their bits; in a sum that is divided at the end they would not. The rounding errors of n summands add up to
    about sqrt(n / 3) times the error of one.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self._means: Tensors = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._owned = False

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add a summand. Nobody may write to it afterwards; all summands have the same names and shapes."""
        if not weight:
            return
        self.weight += weight
        summand = {n: value if value.is_floating_point() else value.double() for n, value in tensors.items()}
        if not self._means:
            self._means, self._dtypes = summand, {name: value.dtype for name, value in tensors.items()}
            return
        means, share = list(self._means.values()), weight / self.weight
        values = [summand[name] for name in self._means]
        if self._owned:
            torch._foreach_lerp_(means, values, share)
        else:  # the first summand belongs to the caller
            self._means = dict(zip(self._means, torch._foreach_lerp(means, values, share), strict=True))
            self._owned = True

    def result(self) -> Tensors:
        """Return the mean in the summands' dtypes; integers, such as BatchNorm's counter, are rounded."""
        return {name: restore_dtype(mean, self._dtypes[name]) for name, mean in self._means.items()}


def restore_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float tensor as `dtype`, rounded to the nearest integer if that is an integer type."""
    return (value if dtype.is_floating_point else value.round()).to(dtype)


class MeanMetrics:
    """The mean over clients of each scalar metric, optionally weighted by their numbers of examples."""

    def __init__(self, weighted: bool = True) -> None:
        self.weighted = weighted
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, metrics: dict[str, float]) -> None:
        """Add one client's metrics; some may be missing."""
        weight = metrics[NUM_EXAMPLES] if self.weighted else 1.0
        for name, value in metrics.items():
            if name not in (NUM_EXAMPLES, WEIGHT):
                self._sums[name] = self._sums.get(name, 0.0) + weight * value
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def result(self) -> MetricRecord:
        """Return the mean of each metric."""
        return MetricRecord({name: total / self._weights[name] for name, total in self._sums.items()})
