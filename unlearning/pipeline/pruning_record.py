"""The record of a pruning in the folder of the pruned run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fedsim.errors import FedsimError
from fedsim.sealed import unseal

FILE = "pruning.json"

Data = Literal["none", "train", "synthetic"]


class MeasuredModel(BaseModel):
    """Quality and cost of one model."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    accuracy: float | None
    """Accuracy on the global test set, in [0, 1]; None for regression."""
    loss: float
    flops: int
    """Operations for one sample, see `fedsim.models.channels.cost`."""
    parameters: int
    megabytes: float
    """Size of all parameters and buffers."""
    milliseconds_1: float
    """Median time of a pass over one sample on this machine's device."""
    milliseconds_256: float
    """Median time of a pass over 256 samples."""


class Pruning(BaseModel):
    """`pruning.json`: the request, and the model before and after."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    run: str
    method: str
    options: dict[str, Any]
    target: str
    data: str
    """The samples that were used, and the data that clients sent, as a phrase."""
    samples: int
    cuts: int
    compensate: bool
    batch_norm: bool
    before: MeasuredModel
    after: MeasuredModel
    channels: dict[str, tuple[int, int]]
    """{group: (before, after)}."""
    seconds: float
    """Time of the cut alone."""


def read_pruning(folder: Path) -> Pruning:
    """Return the record in a pruned run's folder.

    Raises
    ------
    FedsimError
        If the record is missing or damaged.
    """
    file = folder / FILE
    try:
        return Pruning.model_validate_json(unseal(file.read_bytes()))
    except (OSError, ValueError):
        raise FedsimError(f"{file}: cannot be read as the record of a pruning; prune the run again") from None
