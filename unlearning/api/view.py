"""The samples that an unlearning method is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.data.transforms import normalize


@dataclass(frozen=True, eq=False)
class View:
    """The samples of one role (forget, retain, test, unseen) on the device; nobody writes to them."""

    x: Tensor
    """(N, C, H, W) uint8, (N, D) float32 or (N, L) int16, as stored."""
    y: Tensor | None = None
    """(N,) int64, or several labels (N, L) uint8; None for a method that needs no labels."""
    mean: tuple[float, ...] = (0.0,)
    """Of the data set, see `fedsim.data.transforms.normalize`."""
    std: tuple[float, ...] = (1.0,)
    """As `mean`."""
    dtype: torch.dtype = torch.float32
    """Of what `batches` gives: the model's."""
    unseen: View | None = None
    """Beside what is to be forgotten, where a method needs them: never-seen samples of its classes."""

    shift: Tensor | None = None
    """(N, C) what the logits owe to what is to be forgotten, where a method needs it."""
    oracle: Tensor | None = None
    """(N, C) logits of a retrained model, where a method needs them."""
    several_labels: bool = False
    """Whether a sample has several labels, which are 0 or 1, and a model a logit for each, and not one class."""

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, batch_size: int, rng: np.random.Generator | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield normalised inputs (B, *input_shape) and labels (B,): all of them once, shuffled by `rng` or in order.

        The last batch may be smaller.
        """
        order = torch.arange(len(self)) if rng is None else torch.from_numpy(rng.permutation(len(self)))
        for rows in torch.split(order.to(self.x.device), batch_size) if len(self) else ():
            yield self._inputs(self.x[rows]), None if self.y is None else self.y[rows]

    def all(self) -> tuple[Tensor, Tensor | None]:
        """Return all normalised inputs and labels at once: four times the memory of uint8 images."""
        return self._inputs(self.x), self.y

    def _inputs(self, x: Tensor) -> Tensor:
        return normalize(x, self.mean, self.std, self.dtype)
