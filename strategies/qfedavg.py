"""q-FedAvg: minimise the clients' losses raised to a power, so clients with high loss weigh more (arXiv:1905.10497).

Objective: min_w sum_k p_k F_k(w)^(q+1) / (q+1), p_k client k's share of the samples. With L = 1 / lr and
D_k = L (w_t - w_k), the client's training as a single step (algorithm 2):
    w_(t+1) = w_t - sum_k p_k F_k(w_t)^q D_k / sum_k p_k (q F_k(w_t)^(q-1) ||D_k||^2 + L F_k(w_t)^q).

Before they train, clients answer the query "loss": F_k(w_t) over all their samples. Differs from Flower's version,
which uses the mean loss during local training, weighs all clients the same, and counts BatchNorm's running statistics
as parameters. Here q = 0 is FedAvg, and the statistics are averaged as in FedAvg.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.aggregation import WeightedMean
from fedsim.federated.client import Client
from fedsim.federated.exchange import Exchange
from fedsim.federated.queries import Query
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, State
from fedsim.flower import wire
from fedsim.flower.internals import client_of
from fedsim.flower.records import Tensors, to_tensors
from fedsim.privacy.ledger import Release


class QFedAvgConfig(StrategyConfig):
    """Options of q-FedAvg; the client's learning rate 1 / L is training.lr, as scheduled."""

    q: float = Field(0.1, ge=0)
    """Fairness: 0 is FedAvg; larger values give more weight to clients with a larger loss."""


_LEAST_LOSS = 1e-10
"""Added to every loss, as in the authors' code, because F^(q-1) is infinite at 0."""


class QFedAvgClient(Client):
    """Trains as in FedAvg, and reports its loss before."""

    def queries(self) -> Mapping[str, Query]:
        """Return the query for F_k(w_t)."""
        return {"loss": Query(self._losses)}

    def _losses(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        outputs = self.model.logits(state.params, state.buffers, batch.x, train=False)
        return {"sum": batch.loss(outputs).double() * len(batch.y), "samples": torch.tensor(float(len(batch.y)))}

    def releases(self) -> list[Release]:
        """Return the base's releases and the losses."""
        return [
            *super().releases(),
            Release(what="losses of the global model", covers=("query.loss/*",), note="sums over a client's samples"),
        ]


class QFedAvgServer(Server):
    """Weighs clients by their losses."""

    replies = "updates"
    reads_metrics = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.losses: dict[int, float] = {}
        """{client: F_k(w_t)}."""
        self.server_round = 0
        """t + 1."""

    def exchange(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[tuple[ArrayRecord | None, MetricRecord | None]]:
        """Query the losses, then train."""
        self.losses, self.server_round = {}, server_round
        for reply in (yield self.messages("query.loss", server_round, arrays, config, grid.get_node_ids())):
            if not reply.has_error():
                sums = to_tensors(reply.content.array_records[wire.ARRAYS])
                self.losses[client_of(reply.metadata.src_node_id)] = float(sums["sum"] / sums["samples"])
        return self.aggregate_train(server_round, (yield self.configure_train(server_round, arrays, config, grid)))

    def aggregate(self, updates: Iterator[tuple[Tensors, float]]) -> Tensors | None:
        """Return w_(t+1) (algorithm 2, line 7)."""
        q, scale = self.options(QFedAvgConfig).q, 1 / self.config.training.lr_at(self.server_round)
        moved: dict[str, torch.Tensor] = {}
        buffers, total = WeightedMean(), 0.0
        for tensors, weight in updates:
            loss = self.losses[self.senders[-1]] + _LEAST_LOSS
            state = self.split(tensors)
            buffers.add(state.buffers, weight)
            steps = {name: scale * (self.current[name] - value).double() for name, value in state.params.items()}
            norm = sum(float(step.square().sum()) for step in steps.values())
            for name, step in steps.items():
                moved[name] = moved.get(name, 0) + weight * loss**q * step
            total += weight * (q * loss ** (q - 1) * norm + scale * loss**q)
        if not moved:
            return None
        params = {name: self.current[name] - (step / total).to(self.current[name]) for name, step in moved.items()}
        return params | buffers.result()


strategy("qfedavg", QFedAvgConfig, QFedAvgClient, QFedAvgServer)
