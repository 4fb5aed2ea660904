"""The base class for the options of federated methods."""

from __future__ import annotations

from typing import TypeVar

from fedsim.schema import Config


class StrategyConfig(Config):
    """Options of one federated method; each method adds its own."""

    name: str


Options = TypeVar("Options", bound=StrategyConfig)
