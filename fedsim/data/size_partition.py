"""Partitions that only set sizes, and partitions by a user's function."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.data.partition_config import Exponential, Linear, OwnPartition, Quantity, Square
from fedsim.errors import FedsimError, reason_of
from fedsim.installed import own_or_installed

IntArray = npt.NDArray[np.int64]
BySize = Quantity | Linear | Square | Exponential


def owners_by_size(config: BySize, samples: int, clients: int, rng: np.random.Generator) -> IntArray:
    """Return the owner of every row, (n,): a random order of the rows, cut into pieces of the configured sizes.

    The sizes follow flwr-datasets' partitioners of the same names, but the last client does not get the remainder.

    Raises
    ------
    FedsimError
        If there are too few samples for the smallest number per client, or `alpha` is too small.
    """
    least = config.min_samples if isinstance(config, Quantity) else 1
    if least * clients > samples:
        raise FedsimError(f"data.partition: {samples} samples are too few for {least} of each of {clients} clients")
    shares = _shares(config, clients, rng)
    # The guaranteed samples come first. The rest is divided in the shares, rounded so that nothing is left.
    bounds = np.floor(np.cumsum(shares) / shares.sum() * (samples - least * clients) + 1e-9).astype(np.int64)
    bounds[-1] = samples - least * clients
    sizes = np.diff(bounds, prepend=0) + least
    owners = np.empty(samples, np.int64)
    owners[rng.permutation(samples)] = np.repeat(np.arange(clients), sizes)
    return owners


def _shares(config: BySize, clients: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    number = np.arange(1, clients + 1, dtype=np.float64)
    match config:
        case Quantity(alpha=alpha):
            shares = rng.dirichlet(np.full(clients, alpha))
            if not np.isfinite(shares).all():
                raise FedsimError(f"data.partition.alpha: {alpha} is too small for {clients} clients; raise it")
            return shares
        case Linear():
            return number
        case Square():
            return number**2
        case Exponential():
            return np.exp(number - clients)


def owners_by_function(
    config: OwnPartition, labels: IntArray, clients: int, rng: np.random.Generator, identity: IntArray | None
) -> IntArray:
    """Return the owner of every row, (n,), -1 for none, from a user's function.

    Raises
    ------
    FedsimError
        If the function fails, or returns anything but such an array.
    """
    what = "a function of labels, clients and a generator"
    cut = own_or_installed(config.name, "partitions", "data.partition.name", what)
    known: dict[str, Any] = {"identity": identity} if "identity" in inspect.signature(cut).parameters else {}
    try:
        owners = np.asarray(cut(labels.copy(), clients, rng, **known))
    except Exception as error:
        raise FedsimError(f"data.partition.name: {cut.__name__}() fails ({reason_of(error)}); correct it") from error
    if owners.shape != labels.shape or owners.dtype.kind not in "iu":
        raise FedsimError(
            f"data.partition.name: {cut.__name__}() returns {owners.dtype} of shape {owners.shape}; it must return a "
            f"client's number for each of {len(labels)} rows"
        )
    if owners.min() < -1 or owners.max() >= clients:
        raise FedsimError(
            f"data.partition.name: {cut.__name__}() returns clients {owners.min()} to {owners.max()}; there are 0 to "
            f"{clients - 1}, and -1 for nobody"
        )
    return owners.astype(np.int64)
