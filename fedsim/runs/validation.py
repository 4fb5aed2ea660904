"""Validation samples that clients hold out of training, for choices that must not use the test set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ConfigRecord
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.evaluation import TestSet, head_metrics
from fedsim.flower.records import Tensors
from fedsim.flower.wire import VALIDATION
from fedsim.runs.state import Metrics

Ask = Callable[[Sequence[int], ConfigRecord], Metrics]
"""(clients, config of the message) -> their mean metrics."""


class HeldOut:
    """The samples that clients hold out, prepared for evaluation; without such samples nothing is measured.

    Raises
    ------
    FedsimError
        If samples are to be held out and the method converts the samples into something else.
    """

    def __init__(
        self, config: RunConfig, data: FederatedData, device: torch.device, dtype: torch.dtype, *, personalised: bool
    ) -> None:
        if config.data.validation_fraction and data.validation is None:
            raise FedsimError(
                f"data.validation_fraction: {config.strategy.name} makes something else of the samples; leave it out"
            )
        self._pooled: TestSet | None = None
        self._clients: list[int] = []
        if data.validation is None:
            return
        dataset, rows = data.dataset, data.validation.indices[: data.validation.offsets[config.clients_seen]]
        if len(rows):
            held = replace(dataset, x_test=dataset.x_train[rows], y_test=dataset.y_train[rows], truth_test=None)
            self._pooled = TestSet(held, device, dtype, "accuracy")
        if personalised:
            self._clients = np.flatnonzero(data.validation.sizes[: config.clients_seen]).tolist()

    def measure(
        self, heads: Callable[[Tensor], Tensors], seen: npt.NDArray[np.bool_] | None, ask: Ask
    ) -> Metrics:  # fmt: skip
        """Return scores of the global heads on all held-out samples, and of each client's own model on its own."""
        if self._pooled is None:
            return {}
        out = head_metrics("validation", self._pooled.score(heads, seen))
        if self._clients:
            measured = ask(self._clients, ConfigRecord({VALIDATION: True}))
            out |= {f"validation_clients/{name}": value for name, value in measured.items() if ":" not in name}
        return out
