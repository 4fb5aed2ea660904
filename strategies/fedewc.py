"""FedEWC: elastic weight consolidation (arXiv:1612.00796) for classes that arrive in stages, in a federation.

Client, with w_t the model at the end of the previous stage:
    min CE over the classes of the stage  +  penalty / 2 * sum_i F_i (w_i - w_t,i)^2
    at the end of a stage, one query: sum over its samples of (d log p(y | x, w_t) / d w)^2, p over the stage's classes
Server: as FedAvg; F <- F + (sum of the answers) / (number of their samples), the diagonal of the empirical Fisher
information of one stage after another. Classifier rows of new classes are drawn anew when their stage begins.

The penalties of all past stages are centred at the newest w_t (as in online EWC, arXiv:1805.06370, without decay).
Only clients of a stage's last round are asked. In the comparison of TARGET (arXiv:2303.06937) the penalty's gradient
never reaches the optimiser, so their FedEWC is fine-tuning; here it does.
"""

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.federated.exchange import Exchange
from fedsim.federated.queries import Query
from fedsim.federated.registry import strategy
from fedsim.federated.staged import NEW, PREVIOUS, StagedClient, StagedServer, masked, sum_of_answers
from fedsim.federated.types import Batch, Extras, State
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.models.sample_gradients import in_parts, sample_gradients
from fedsim.privacy.ledger import Release

_FISHER = "fisher/"
_TOGETHER = 16  # samples whose gradients are in memory at once


class FedEWCConfig(StrategyConfig):
    """Options of FedEWC."""

    penalty: float = Field(1000.0, ge=0)
    """lambda, the weight of the pull to the model of the previous stage; 0 is fine-tuning."""


def consolidation(params: Tensors, anchor: Tensors, fisher: Tensors) -> Tensor:
    """Return 1/2 sum_i F_i (w_i - w*_i)^2 over the names in `fisher`, shape ()."""
    terms = [(value * (params[name] - anchor[name]).square()).sum() for name, value in fisher.items()]
    return torch.stack(terms).sum() / 2


class FedEWCClient(StagedClient):
    """SGD on the new classes with the pull to the previous model."""

    reports = ("consolidation",)

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return the objective for one batch."""
        penalty = self.options(FedEWCConfig).penalty
        loss = self.new_classes_loss(self.model.logits(params, buffers, batch.x, train=True), extras, batch)
        if not penalty or self.is_first_stage(extras):
            return loss, {}
        start, sent = len(_FISHER), extras.constants
        fisher = {name[start:]: value for name, value in sent.items() if name.startswith(_FISHER)}
        pull = consolidation(params, {name: sent[PREVIOUS + name] for name in fisher}, fisher)
        return loss + penalty * pull, {"consolidation": pull}

    def queries(self) -> Mapping[str, Query]:
        """Return the query for the Fisher information."""
        return {"fisher": Query(self.squared_gradients)}

    def squared_gradients(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        """Return the sum over samples of the squared gradient of log p(y | x), per parameter."""

        def log_p(params: Tensors, x: Tensor, y: Tensor) -> Tensor:
            logits = self.model.logits(params, state.buffers, x[None], train=False)
            return masked(logits, constants[NEW]).log_softmax(1).gather(1, y.view(1, 1)).squeeze()

        sums = {name: torch.zeros_like(value) for name, value in state.params.items()}
        for part in in_parts(sample_gradients(log_p), state.params, batch.x, batch.y, _TOGETHER):
            for name, gradients in part.items():
                sums[name] += gradients.square().sum(0)
        return sums

    def releases(self) -> list[Release]:
        """Return the base's releases and the squared gradients."""
        note = "sums over a client's samples, in the last round of each stage, without noise"
        return [*super().releases(), Release(what="squared gradients", covers=("query.fisher/*",), note=note)]


class FedEWCServer(StagedServer):
    """Queries the Fisher information at the end of a stage."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        self.fisher: Tensors = {}
        """F, per parameter; empty in the first stage."""

    def exchange(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[tuple[ArrayRecord | None, MetricRecord | None]]:
        """Train; after the last round of a stage, query the Fisher information of the new model."""
        trained, metrics = yield from super().exchange(server_round, arrays, config, grid)
        if trained is not None and self.data.stages is not None and self.data.stages.ends(server_round):
            nodes = grid.get_node_ids()
            replies = yield self.messages("query.fisher", server_round, trained, ConfigRecord(), nodes)
            sums, count = sum_of_answers(replies)
            like = self.first.params
            self.fisher = {n: (value / count).to(like[n]) + self.fisher.get(n, 0.0) for n, value in sums.items()}
        return trained, metrics

    def constants(self) -> Tensors:
        """Return the masks, w_t and F."""
        fisher = self.fisher if self.stage else {}
        return super().constants() | {_FISHER + name: value for name, value in fisher.items()}

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the stage, w_t and F."""
        tensors, values = super().state_dict()
        return tensors | {_FISHER + name: value for name, value in self.fisher.items()}, values

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(tensors, values)
        like = next(iter(self.first.params.values()))
        self.fisher = {n[len(_FISHER) :]: v.to(like.device) for n, v in tensors.items() if n.startswith(_FISHER)}


strategy(
    "fedewc",
    FedEWCConfig,
    FedEWCClient,
    FedEWCServer,
    run_defaults={"data.stages.count": 2},
    metrics={"consolidation": "squared distance from the weights of the previous stage, weighted by their importance"},
)
