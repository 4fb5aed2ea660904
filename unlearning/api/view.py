"""The samples that an unlearning method receives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.data.transforms import normalize


@dataclass(frozen=True, eq=False)
class View:
    """The samples of one role (forget, retain, test, unseen) on the device; they must not be changed."""

    x: Tensor
    """(N, C, H, W) uint8, (N, D) float32 or (N, L) int16, as stored."""
    y: Tensor | None = None
    """(N,) int64 classes, or (N, L) uint8 labels; None for a method that needs no labels."""
    mean: tuple[float, ...] = (0.0,)
    """Mean of the data set, see `fedsim.data.transforms.normalize`."""
    std: tuple[float, ...] = (1.0,)
    """Standard deviation of the data set."""
    dtype: torch.dtype = torch.float32
    """The dtype of the batches: that of the model."""
    unseen: View | None = None
    """In the forget view, for methods that need them: never-seen samples of the forgotten classes."""

    shift: Tensor | None = None
    """(N, C) effect of the forgotten samples on the logits, for methods that need it."""
    oracle: Tensor | None = None
    """(N, C) logits of a retrained model, for methods that need them."""
    several_labels: bool = False
    """Whether a sample has several labels, 0 or 1, with one logit each, instead of one class."""

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, batch_size: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield normalised inputs (B, *input_shape) and labels (B,): each sample once, shuffled by `rng` or in order.

        The last batch may be smaller.
        """
        order = torch.arange(len(self)) if rng is None else torch.from_numpy(rng.permutation(len(self)))
        for rows in torch.split(order.to(self.x.device), batch_size) if len(self) else ():
            yield self._inputs(self.x[rows]), None if self.y is None else self.y[rows]

    def all(self) -> tuple[Tensor, Tensor | None]:
        """Return all normalised inputs and labels at once; they need four times the memory of uint8 images."""
        return self._inputs(self.x), self.y

    def _inputs(self, x: Tensor) -> Tensor:
        return normalize(x, self.mean, self.std, self.dtype)
