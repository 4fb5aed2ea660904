"""What a pruned run's folder records of how it came to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fedsim.errors import FedsimError
from fedsim.sealed import unseal

FILE = "pruning.json"

Data = Literal["none", "train", "synthetic"]


class MeasuredModel(BaseModel):
    """One model: how well it does and what it costs."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    accuracy: float | None
    """On the global test set, in [0, 1]; None where numbers are predicted."""
    loss: float
    flops: int
    """Of one sample, see `fedsim.models.channels.cost`."""
    parameters: int
    megabytes: float
    """Of all parameters and buffers."""
    milliseconds_1: float
    """Median time of a pass over one sample on this machine's device."""
    milliseconds_256: float
    """Of a pass over 256 samples."""


class Pruning(BaseModel):
    """`pruning.json`: what was asked, and the model before and after."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    run: str
    method: str
    options: dict[str, Any]
    target: str
    data: str
    """In words: whose samples were looked at, and what of them was sent."""
    samples: int
    cuts: int
    compensate: bool
    batch_norm: bool
    before: MeasuredModel
    after: MeasuredModel
    channels: dict[str, tuple[int, int]]
    """{group: (before, after)}."""
    seconds: float
    """Of the cut alone."""


def read_pruning(folder: Path) -> Pruning:
    """Return what a pruned run's folder records.

    Raises
    ------
    FedsimError
        If it has no such record, or it is damaged.
    """
    file = folder / FILE
    try:
        return Pruning.model_validate_json(unseal(file.read_bytes()))
    except (OSError, ValueError):
        raise FedsimError(f"{file}: cannot be read as the record of a pruning; prune the run again") from None
