"""Queries: what clients work out about their samples without training, as sums over these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fedsim.federated.types import Batch, State
from fedsim.flower.records import Tensors
from fedsim.randomness import generator
from fedsim.training.data import TrainingData

PREFIX = "query."
"""Of a query's message type, in Flower's words."""

_TOGETHER = 500  # samples

Answer = Callable[[State, Tensors, Tensors, Batch], Tensors]
"""(state, own, constants, batch) -> sums over the batch's samples, {name: (...)}.

`state` is the global model as it was sent, with what the client keeps for itself; `own` what this client alone was
sent; `constants` what all were sent besides the model. Samples are not augmented. Pure; gradients may be taken."""


@dataclass(frozen=True)
class Query:
    """A question that a server may put to clients; its message is of the type `query.NAME`."""

    answer: Answer
    batch: int | None = None
    """Samples that the answer is of, drawn without replacement; at most all, and by default all, in order."""
    address: str = "sample"
    """Of the draw, with round and client: queries of equal address in a round are of the same samples."""


def rows_of(
    query: Query, rows: npt.NDArray[np.int64], seed: int, server_round: int, client: int
) -> npt.NDArray[np.int64]:
    """Return which of a client's training rows (n,) a query is about."""
    if query.batch is None:
        return rows
    drawn = generator(seed, f"query {query.address}", server_round, client).permutation(len(rows))
    return rows[drawn[: query.batch]]


def answer(
    query: Query, state: State, own: Tensors, constants: Tensors, data: TrainingData, rows: npt.NDArray[np.int64]
) -> Tensors:
    """Return a client's answer from those training rows: sums over them, taken in their order.

    Clients are answered one by one, so that no bit depends on who else is asked.

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
