"""Partitions that go by sizes, or by a function of one's own, as options; the others are in `fedsim.data.config`."""

from typing import Literal

from pydantic import Field, field_validator

from fedsim.installed import installed
from fedsim.plugins import plugin_of
from fedsim.schema import Config

OWN = "./FILE.py:NAME"
"""What stands for a user's file in lists."""


class Quantity(Config):
    """Sizes are Dirichlet(alpha) shares of all samples, whatever their classes; small alpha: few have most."""

    name: Literal["quantity"] = "quantity"
    alpha: float = Field(1.0, ge=1e-3, le=1e6)
    """Concentration; 0.1 leaves most clients with next to nothing, 100 is nearly even."""
    min_samples: int = Field(1, ge=0)
    """What every client has at least."""


class Linear(Config):
    """Sizes grow with the client's number, as 1, 2, 3, ..."""

    name: Literal["linear"] = "linear"


class Square(Config):
    """Sizes grow with the square of the client's number, as 1, 4, 9, ..."""

    name: Literal["square"] = "square"


class Exponential(Config):
    """Sizes grow as powers of e with the client's number."""

    name: Literal["exponential"] = "exponential"


class OwnPartition(Config):
    """A function of your own: (labels (n,), clients, generator[, identity]) -> the client of each row, -1 for none."""

    name: str = OWN

    @field_validator("name")
    @classmethod
    def _is_a_file(cls, value: str) -> str:
        if plugin_of(value) is None and value not in installed("partitions", ()):
            raise ValueError("must be a file, such as ./mine.py:name")
        return value
