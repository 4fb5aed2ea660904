"""Queries: what clients work out about their samples without training, as sums over these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedsim.federated.types import Batch, State
from fedsim.flower.records import Tensors

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
