"""Makes the replies of the trained clients of a chunk: one update each, or one weighted mean for the chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import MetricRecord, RecordDict
from torch import Tensor

from fedsim.engine.personal import personal_records
from fedsim.engine.reply import Reply
from fedsim.federated.aggregation import MeanMetrics, WeightedMean
from fedsim.federated.types import Update
from fedsim.flower.records import Tensors, to_record
from fedsim.flower.wire import ARRAYS, METRICS, NUM_EXAMPLES, OWN_ARRAYS, OWN_METRICS, WEIGHT

Floats = npt.NDArray[np.float64]


class Answers:
    """Makes the replies of the clients of one chunk.

    Parameters
    ----------
    summed
        Whether the server needs only the chunk's weighted mean.
    own_updates
        Whether replies also contain every client's own update.
    """

    def __init__(self, *, summed: bool, own_updates: bool) -> None:
        self._sum = _Sum() if summed else None
        self._own_updates = own_updates

    def of(
        self, clients: Sequence[int], update: Update, examples: Floats, metrics: Mapping[str, Floats]
    ) -> dict[int, Reply]:
        """Return the replies of clients that were trained together, and add their updates to the chunk's sum.

        All arrays are (clients, ...). A client with an update that is not finite fails, and is not part of any sum.
        """
        good, mean = np.arange(len(examples)), None
        if self._sum is not None:
            mean = weighted_mean(update.sent, update.weights)
        # A finite mean implies finite summands, so they need no check of their own.
        if mean is None or not _is_finite(mean):
            good = np.flatnonzero(_finite_rows(update.sent, len(update.weights)))
            if self._sum is not None and 0 < len(good) < len(examples):
                mean = weighted_mean({name: value[good] for name, value in update.sent.items()}, update.weights[good])
        if self._sum is not None and len(good):
            weight = float(update.weights[good].sum())
            self._sum.add(mean or {}, weight, examples[good], {name: value[good] for name, value in metrics.items()})
        replies = {client: Reply(None, "its update holds NaN or Inf") for client in clients}
        for row in good.tolist():
            content = RecordDict()
            if self._sum is None or self._own_updates:
                arrays, measured = (ARRAYS, METRICS) if self._sum is None else (OWN_ARRAYS, OWN_METRICS)
                content[arrays] = to_record({name: value[row] for name, value in update.sent.items()})
                own: dict[str, Any] = {n: float(v[row]) for n, v in metrics.items() if not np.isnan(v[row])}
                own |= {NUM_EXAMPLES: int(examples[row]), WEIGHT: float(update.weights[row])}
                content[measured] = MetricRecord(own)
            replies[clients[row]] = Reply(content, state=personal_records(update.kept, row))
        return replies

    def carry_sum(self, replies: Iterable[Reply]) -> None:
        """Add the chunk's sum to the first good reply of the chunk, if sums are requested."""
        carrier = next((reply.content for reply in replies if reply.content is not None), None)
        if self._sum is not None and carrier is not None:
            carrier[METRICS] = self._sum.metrics()
            if self._sum.mean.weight:
                carrier[ARRAYS] = to_record(self._sum.mean.result())


class _Sum:
    """The weighted mean of the updates and metrics of a chunk."""

    def __init__(self) -> None:
        self.mean = WeightedMean()
        self._metrics = MeanMetrics()
        self._examples = 0.0

    def add(self, mean: Tensors, weight: float, examples: Floats, metrics: Mapping[str, Floats]) -> None:
        """Add clients: the weighted mean of what they send, and each one's number of examples and metrics."""
        self.mean.add(mean, weight)
        for name, values in metrics.items():
            measured = ~np.isnan(values)
            if total := float(examples[measured].sum()):
                mean_value = float((values[measured] * examples[measured]).sum()) / total
                self._metrics.add({NUM_EXAMPLES: total, name: mean_value})
        self._examples += float(examples.sum())

    def metrics(self) -> MetricRecord:
        """Return the clients' metrics, weighted by their examples, and their total weights."""
        record = self._metrics.result()
        record[NUM_EXAMPLES], record[WEIGHT] = self._examples, self.mean.weight
        return record


def _is_finite(tensors: Tensors) -> bool:
    return not tensors or bool(torch.stack([value.sum() for value in tensors.values()]).sum().isfinite())


def _finite_rows(tensors: Tensors, clients: int) -> npt.NDArray[np.bool_]:
    """Return for each client, (clients,), whether all of its tensors are finite; their sum tells."""
    if not tensors:
        return np.ones(clients, bool)
    sums = [value.reshape(len(value), -1).sum(1).double() for value in tensors.values()]
    return torch.stack(sums).sum(0).isfinite().cpu().numpy()


def weighted_mean(tensors: Tensors, weights: Tensor) -> Tensors:
    """Return sum_i w_i tensor[i] / sum_i w_i of stacked tensors (N, ...); integers come back as float64.

    With a single summand, or if all weights are 0, the result is the first summand.
    """
    total = weights.sum()
    if len(weights) == 1 or not total:
        return {name: value[0] for name, value in tensors.items()}
    shares = weights / total
    out = {}
    for name, value in tensors.items():
        real = value if value.is_floating_point() else value.double()
        out[name] = torch.tensordot(shares.to(real.device, real.dtype), real, dims=1)
    return out
