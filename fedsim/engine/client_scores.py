"""Score clients on their own test samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import MetricRecord, RecordDict
from torch import Tensor

from fedsim.data.federation import FederatedData
from fedsim.data.longtail import shot_groups
from fedsim.federated.client import Client
from fedsim.federated.types import State
from fedsim.flower.records import Tensors, from_numpy
from fedsim.flower.wire import METRICS, NUM_EXAMPLES
from fedsim.training.data import TrainingData, targets_on

_EVAL_BATCH = 500


class ClientScores:
    """Scores clients' models. The test set is moved to the device of `train_set` when it is first needed."""

    def __init__(self, client: Client, data: FederatedData, train_set: TrainingData) -> None:
        self.client, self.data, self.train_set = client, data, train_set
        self._test_set: TrainingData | None = None

    @torch.no_grad()
    def measure(self, client: int, state: State, constants: Tensors, server_round: int) -> RecordDict:
        """Measure a client's predictions on its own test samples; without any, report only their number, 0.

        If classes arrive in stages, later classes are neither tested nor predicted.
        """
        held, seen = self.data.client_test[client], self.data.seen(server_round)
        if seen is not None:
            dataset = self.data.dataset
            y = dataset.y_train if self.data.client_test_source == "train" else dataset.y_test
            held = held[seen[y[held]]]
        rows = torch.from_numpy(held).to(self.train_set.x.device)
        metrics: dict[str, Any] = {NUM_EXAMPLES: len(rows)}
        if len(rows):
            dataset = self.data.dataset
            owned = np.bincount(dataset.strata_train[self.data.partition[client]], minlength=dataset.num_strata)
            if len(owned) < self.client.num_classes:  # without class counts of its own, no class counts as absent
                owned = np.full(self.client.num_classes, owned[0])
            parts: dict[str, list[Tensor]] = {}
            for some in torch.split(rows, _EVAL_BATCH):
                for head, logits in self.client.heads(state, constants, self._tests.batch(some, None)[0]).items():
                    parts.setdefault(head, []).append(logits)
            labels = self._tests.y[rows]
            for number, (head, logits_parts) in enumerate(parts.items()):
                outputs = torch.cat(logits_parts)
                if seen is not None:
                    owned = np.where(seen, owned, 0)
                    outputs = outputs.masked_fill(~torch.from_numpy(seen).to(outputs.device), -torch.inf)
                if dataset.is_regression:
                    measured = {"mse": float((outputs[:, 0] - labels).square().mean())}
                elif dataset.has_several_labels:
                    measured = {"accuracy": float(((outputs > 0) == labels.bool()).double().mean())}
                else:
                    measured = score(outputs, labels, owned, masked=self.client.masks_absent_classes)
                metrics |= {name if number == 0 else f"{head}:{name}": value for name, value in measured.items()}
        return RecordDict({METRICS: MetricRecord(metrics)})

    @property
    def _tests(self) -> TrainingData:
        if self.data.client_test_source == "train":
            return replace(self.train_set, augment="none")
        if self._test_set is None:
            dataset, device = self.data.dataset, self.train_set.x.device
            self._test_set = replace(
                self.train_set,
                x=from_numpy(dataset.x_test).to(device),
                y=targets_on(device, dataset.y_test, self.train_set.dtype),
            )
        return self._test_set


def score(logits: Tensor, labels: Tensor, owned: npt.NDArray[np.int64], *, masked: bool) -> dict[str, float]:
    """Return a client's accuracies in [0, 1]: with absent classes ruled out, without, and by its own shot groups.

    Parameters
    ----------
    logits
        (N, C).
    labels
        (N,) int64.
    owned
        (C,) the client's training samples of each class.
    masked
        Whether the method's own `accuracy`, and those of the groups, rule out absent classes.
    """
    absent = torch.from_numpy(owned == 0).to(logits.device)
    hits = {
        "unmasked": (logits.argmax(1) == labels).cpu().numpy(),
        "masked": (logits.masked_fill(absent, -torch.inf).argmax(1) == labels).cpu().numpy(),
    }
    own = hits["masked" if masked else "unmasked"]
    metrics = {"accuracy": own.mean()} | {f"accuracy_{rule}": right.mean() for rule, right in hits.items()}
    for group, classes in shot_groups(owned).items():
        there = np.isin(labels.cpu().numpy(), classes)
        if there.any():
            metrics[f"accuracy_{group}"] = own[there].mean()
    return {name: float(value) for name, value in metrics.items()}
