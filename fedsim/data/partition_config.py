"""Options of partitions by size, and of users' own functions; the other partitions are in `fedsim.data.config`."""

from typing import Literal

from pydantic import Field, field_validator

from fedsim.installed import installed
from fedsim.plugins import plugin_of
from fedsim.schema import Config

OWN = "./FILE.py:NAME"
"""Placeholder for a user's file in lists."""


class Quantity(Config):
    """Sizes are Dirichlet(alpha) shares of all samples, independent of classes; small alpha: few clients have most."""

    name: Literal["quantity"] = "quantity"
    alpha: float = Field(1.0, ge=1e-3, le=1e6)
    """Concentration; with 0.1 most clients have hardly any samples, with 100 sizes are nearly equal."""
    min_samples: int = Field(1, ge=0)
    """Smallest number of samples of a client."""


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
