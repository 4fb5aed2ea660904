"""Measures the global model on the global test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.datasets import Dataset
from fedsim.data.transforms import normalize
from fedsim.records import Tensors

_BATCH = 500


@dataclass(frozen=True)
class HeadScore:
    """How one way to predict does on the test set."""

    accuracy: float
    """In [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""
    per_class: npt.NDArray[np.float64]
    """(C,) accuracy of each class; NaN where it has no test sample."""

    def metrics(self, prefix: str, groups: dict[str, npt.NDArray[np.intp]]) -> dict[str, float]:
        """Return the score under metric names; `groups` are classes by shot group."""
        out = {f"{prefix}/accuracy": self.accuracy, f"{prefix}/loss": self.loss}
        for group, classes in groups.items():
            if len(classes):
                out[f"{prefix}/accuracy_{group}"] = float(np.nanmean(self.per_class[classes]))
        return out


class TestSet:
    """The global test set on a device, ready to be predicted."""

    __test__ = False  # no test case, whatever pytest makes of the name

    def __init__(self, dataset: Dataset, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.num_classes = dataset.num_classes
        self.x = torch.from_numpy(dataset.x_test).to(device)
        self.y = torch.from_numpy(dataset.y_test).to(device)
        self.mean, self.std = (torch.tensor(v, device=device) for v in (dataset.mean, dataset.std))

    @torch.no_grad()
    def score(self, heads: Callable[[Tensor], Tensors]) -> dict[str, HeadScore]:
        """Return the score of every head; `heads` maps inputs (B, ...) to logits (B, C) by name."""
        parts: dict[str, list[Tensor]] = {}
        for x in torch.split(self.x, _BATCH):
            for head, logits in heads(normalize(x, self.mean, self.std).to(self.dtype)).items():
                parts.setdefault(head, []).append(logits)
        return {head: self._score(torch.cat(logits)) for head, logits in parts.items()}

    def _score(self, logits: Tensor) -> HeadScore:
        right = (logits.argmax(1) == self.y).cpu().numpy()
        labels = self.y.cpu().numpy()
        totals = np.bincount(labels, minlength=self.num_classes)
        with np.errstate(invalid="ignore"):
            per_class = np.bincount(labels, weights=right, minlength=self.num_classes) / totals
        return HeadScore(float(right.mean()), float(F.cross_entropy(logits, self.y)), per_class)
