"""Pruning methods by name: how each one ranks channels. Imports no torch.

One file is one method. It has a docstring, options, and under `@pruner("name", NameConfig, samples=True)` the function
`order(task, config, rng) -> {group: (channels,)}`. `unlearning.pipeline.prune` applies the ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fedsim.federated.registry import declared, imported
from fedsim.plugins import register
from fedsim.schema import Config

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from fedsim.models.base import Classifier
    from fedsim.models.channels import ChannelGroup


class PrunerConfig(Config):
    """Options of one pruning method; each method adds its own."""

    name: str


@dataclass(frozen=True, eq=False)
class PruningTask:
    """The input of a pruning method."""

    model: Classifier
    """The model, in evaluation mode; it is not changed."""
    groups: Mapping[str, ChannelGroup]
    """The channels that can be removed, see `fedsim.models.channels`."""
    moments: Mapping[str, Tensor]
    """{consumer: (I K, I K) float64, E[u uᵀ] of its patches}, centred if a batch norm follows; empty without
    samples."""


Options = TypeVar("Options", bound=PrunerConfig)

Order = Callable[["PruningTask", Options, "np.random.Generator"], "Mapping[str, Tensor]"]
"""(task, options, generator) -> {group: (channels,) in [0, 1]}: a channel is kept if its value is below the kept share.
So equal shares of two methods are comparable only for methods that rank within groups."""


@dataclass(frozen=True)
class Pruner:
    """One pruning method."""

    name: str
    config: type[PrunerConfig]
    samples: bool
    """Whether it uses samples."""
    order: Order[Any]


_pruners: dict[str, Pruner] = {}


def pruner(name: str, config: type[Options], samples: bool) -> Callable[[Order[Options]], Order[Options]]:
    """Register the function below as the pruning method `name`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def add(function: Order[Options]) -> Order[Options]:
        register(_pruners, name, Pruner(name, config, samples, function), function.__module__, "pruning method")
        return function

    return add


def load_pruner(name: str) -> Pruner:
    """Return the pruning method called `name`; only its file is imported.

    Raises
    ------
    FedsimError
        If there is no such method.
    """
    known = declared("unlearning", "pruner")
    return imported(_pruners, known, name, f"--method {name}: no such pruning method")


def describe_pruners() -> dict[str, str]:
    """Return {method name: description}, read from the source without imports."""
    return {name: found.summary for name, found in declared("unlearning", "pruner").items()}
