"""A client's answer to a query."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fedsim.federated.queries import Query
from fedsim.federated.types import Batch, State
from fedsim.flower.records import Tensors
from fedsim.randomness import generator
from fedsim.training.data import TrainingData

_TOGETHER = 500  # samples


def rows_of(
    query: Query, rows: npt.NDArray[np.int64], seed: int, server_round: int, client: int
) -> npt.NDArray[np.int64]:
    """Return the training rows (n,) of a client that a query uses."""
    if query.batch is None:
        return rows
    drawn = generator(seed, f"query {query.address}", server_round, client).permutation(len(rows))
    return rows[drawn[: query.batch]]


def answer(
    query: Query, state: State, own: Tensors, constants: Tensors, data: TrainingData, rows: npt.NDArray[np.int64]
) -> Tensors:
    """Return a client's answer to a query: sums over those training rows, in their order.

    Clients are processed one by one, so that no bit depends on which other clients are asked.

    Raises
    ------
    ValueError
        If there are no rows, or the sums are not finite.
    """
    if not len(rows):
        raise ValueError("it has no samples to answer from")
    sums: Tensors = {}
    for some in torch.split(torch.from_numpy(rows).to(data.x.device), _TOGETHER):
        part = query.answer(state, own, constants, Batch(*data.batch(some, None)))
        sums = {name: (sums[name] + value if sums else value).detach() for name, value in part.items()}
    if not all(bool(value.isfinite().all()) for value in sums.values()):
        raise ValueError("its answer holds NaN or Inf")
    return sums
