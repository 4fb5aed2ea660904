"""The rows that a run folder's files hold, as models."""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]
"""An integer that every JSON reader and NumPy represent exactly."""


class MetricRow(BaseModel):
    """One line of `metrics.jsonl`: what was measured in one round."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    round: Count
    time_s: float | None = None
    """Seconds of all rounds so far."""
    bytes_down: Count | None = None
    """Bytes of tensors sent to the clients of this round; None in a run of a version that did not count them."""
    bytes_up: Count | None = None
    """Bytes of tensors received from them."""
    metrics: dict[str, float | None] = {}
    per_class: list[float | None] | None = None
    """Accuracy of each class in [0, 1], where classes arrive in stages."""


class StageRow(BaseModel):
    """One stage of a run whose classes arrive over time."""

    model_config = ConfigDict(frozen=True, strict=True)

    classes: list[int]
    rounds: list[int] = Field(min_length=2, max_length=2)
    """The first and the last round of the stage."""
