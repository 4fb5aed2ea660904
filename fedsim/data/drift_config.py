"""Options for label noise and feature shift, which make clients' data differ beyond the partition."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from fedsim.schema import Config

Share = Annotated[float, Field(ge=0, lt=1)]


class LabelNoiseConfig(Config):
    """Wrong labels: each client draws its share of them from a range (as in FedCorr, arXiv:2204.04677)."""

    low: Share = 0.0
    """Smallest share of a client's training samples with a wrong label."""
    high: Share = 0.4
    """Largest share."""

    @model_validator(mode="before")
    @classmethod
    def _one_share(cls, value: Any) -> Any:
        """Read a number as the share of every client, a pair as the range."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"low": value, "high": value}
        if isinstance(value, list | tuple) and len(value) == 2:
            return {"low": value[0], "high": value[1]}
        return value

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must be at most high, got {self.low:g} and {self.high:g}")
        return self


class FeatureShiftConfig(Config):
    """Inputs that differ between clients, as from different scanners or sensors; each client draws its shift once."""

    brightness: float = Field(0.0, ge=0, le=1)
    """Largest change of a client's brightness, up or down, as a share of the pixel range."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Largest change of a client's contrast: its factor is within 1 plus or minus this."""
    rotation: tuple[float, ...] = ()
    """Angles in degrees, one of which rotates all images of a client; IFCA (arXiv:2006.04088) has 0, 90, 180, 270."""
    noise: float = Field(0.0, ge=0)
    """The k-th of K clients has noise of variance noise * k / K (NIID-Bench, arXiv:2102.02079), in units of the pixel
    range for images, and of each column's standard deviation for tables."""

    @field_validator("rotation", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value
