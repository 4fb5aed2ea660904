"""What makes clients' data differ beyond who holds which sample, as options."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from fedsim.schema import Config

Share = Annotated[float, Field(ge=0, lt=1)]


class LabelNoiseConfig(Config):
    """Wrong labels at clients: of each, a share drawn from a range (FedCorr, arXiv:2204.04677, has such clients)."""

    low: Share = 0.0
    """Least share of a client's training samples that have a wrong label."""
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
    """Inputs that differ from client to client, as from other scanners or sensors; each draws its own, once."""

    brightness: float = Field(0.0, ge=0, le=1)
    """A client's images are brighter or darker by up to this share of the range of pixels."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """A client's images keep their contrast up to a factor of 1 plus or minus this."""
    rotation: tuple[float, ...] = ()
    """A client's images are turned by one of these angles, in degrees; 0, 90, 180, 270 are those of IFCA
    (arXiv:2006.04088)."""
    noise: float = Field(0.0, ge=0)
    """The k-th of K clients has noise of variance noise * k / K (NIID-Bench, arXiv:2102.02079): of images in units of
    their range, of tables in units of each column's deviation."""

    @field_validator("rotation", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value
