"""The rows that a run folder's files hold, as models."""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]
"""What any program can count to, and NumPy hold."""


class MetricRow(BaseModel):
    """One line of `metrics.jsonl`: what was measured in one round."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    round: Count
    time_s: float | None = None
    """Seconds of all rounds so far."""
    bytes_down: Count | None = None
    """Of tensors, to the clients of this round; None in a run of a version that did not count them."""
    bytes_up: Count | None = None
    """From them."""
    metrics: dict[str, float | None] = {}
    per_class: list[float | None] | None = None
    """Accuracy of each class in [0, 1], where classes arrive in stages."""


class StageRow(BaseModel):
    """One stage of a run whose classes arrive over time."""

    model_config = ConfigDict(frozen=True, strict=True)

    classes: list[int]
    rounds: list[int] = Field(min_length=2, max_length=2)
    """Its first and its last round."""
