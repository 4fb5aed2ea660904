"""Queries: sums over clients' samples that clients compute without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedsim.federated.types import Batch, State
from fedsim.flower.records import Tensors

Answer = Callable[[State, Tensors, Tensors, Batch], Tensors]
"""(state, own, constants, batch) -> sums over the batch's samples, {name: (...)}.

`state` is the global model as sent, with the client's personal tensors. `own` are the tensors that only this client
received. `constants` are the tensors that all clients received besides the model. Samples are not augmented. The
function must be pure; gradients may be taken."""


@dataclass(frozen=True)
class Query:
    """A question that a server may send to clients; its message type is `query.NAME`."""

    answer: Answer
    batch: int | None = None
    """Number of samples for the answer, drawn without replacement, at most all; by default all, in order."""
    address: str = "sample"
    """Part of the draw's seed, with round and client: in a round, queries with one address use the same samples."""
