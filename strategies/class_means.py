"""Class means: train in the first stage, then freeze the features and classify by the nearest class mean.

A simple baseline for methods against forgetting (nearest class mean, as in iCaRL, arXiv:1611.07725, without exemplars).

First stage: FedAvg. From its end on, with f the frozen features, one query per stage to each drawn client:
    client  s_c = sum of f(x) over its samples of class c, n_c their number
    server  m_c = sum of s_c / sum of n_c;   prediction argmax_c <f(x), m_c> - ||m_c||^2 / 2,  the nearest m_c
This is a linear classifier with the rows m_c. No client trains after the first stage, so nothing of it is forgotten.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.federated.exchange import Exchange
from fedsim.federated.queries import Query
from fedsim.federated.registry import strategy
from fedsim.federated.staged import StagedClient, StagedServer, sum_of_answers
from fedsim.federated.types import Batch, Extras, State
from fedsim.flower.internals import client_of
from fedsim.flower.records import Tensors, to_record, to_tensors
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Release


class ClassMeansConfig(StrategyConfig):
    """Class means have no options."""


def nearest_mean(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (C, d) and biases (C,) of the linear classifier for sums (C, d) of counts (C,) features.

    A class without samples gets a bias so low that it is never predicted.
    """
    means = sums / counts.clamp_min(1)[:, None]
    return means, torch.where(counts > 0, -means.square().sum(1) / 2, -1e9)


class ClassMeansClient(StagedClient):
    """SGD in the first stage; sums of features from its end on."""

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return the cross-entropy over the classes of the stage."""
        return self.new_classes_loss(self.model.logits(params, buffers, batch.x, train=True), extras, batch), {}

    def queries(self) -> Mapping[str, Query]:
        """Return the query for the sums of features."""
        return {"features": Query(self.feature_sums)}

    def feature_sums(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        """Return s, (C, d), and n, (C,)."""
        f = self.model.features(state.params, state.buffers, batch.x, train=False)
        classes = F.one_hot(batch.y, self.num_classes).to(f)
        return {"sums": classes.T @ f, "counts": classes.sum(0)}

    def releases(self) -> list[Release]:
        """Return the base's releases and the sums."""
        note = "sums of features and numbers of samples by class, once a stage, without noise"
        return [*super().releases(), Release(what="class sums", covers=("query.features/*",), note=note)]


class ClassMeansServer(StagedServer):
    """Trains in the first stage; afterwards asks every client once per stage."""

    keeps_previous = False

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        if data.stages is None:  # without stages it would be FedAvg, without class means
            raise FedsimError("data.stages.count: class_means needs 2 stages or more; without stages use fedavg")
        classes = data.dataset.num_classes
        self.sums = torch.zeros(classes, model.feature_dim, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.answered: set[tuple[int, int]] = set()
        """(stage, client) of the answers that the means contain."""

    def exchange(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[tuple[ArrayRecord | None, MetricRecord | None]]:
        """Train in the first stage.

        At its end, and in later stages, query clients that have not answered in this stage.
        """
        stages, metrics = self.data.stages, None
        assert stages is not None
        result: ArrayRecord | None = arrays
        if self.stage == 0:
            result, metrics = yield from super().exchange(server_round, arrays, config, grid)
        if result is None or (self.stage == 0 and not stages.ends(server_round)):
            return result, metrics
        nodes = [node for node in grid.get_node_ids() if (self.stage, client_of(node)) not in self.answered]
        if not nodes:
            return result, metrics
        replies = [
            reply
            for reply in (yield self.messages("query.features", server_round, result, ConfigRecord(), nodes))
            if not reply.has_error()
        ]
        if not replies:
            return None, None
        answers, _ = sum_of_answers(replies)
        self.sums, self.counts = self.sums + answers["sums"].cpu(), self.counts + answers["counts"].cpu()
        self.answered |= {(self.stage, client_of(reply.metadata.src_node_id)) for reply in replies}
        tensors = to_tensors(result)
        weight, bias = nearest_mean(self.sums, self.counts)
        own = {"classifier.weight": weight, "classifier.bias": bias}
        return to_record(tensors | {name: value.to(tensors[name]) for name, value in own.items()}), metrics

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the stage, the sums, and the clients that have answered."""
        tensors, values = super().state_dict()
        answered = sorted(list(pair) for pair in self.answered)
        return tensors | {"sums": self.sums, "counts": self.counts}, values | {"answered": answered}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(tensors, values)
        self.sums, self.counts = tensors["sums"], tensors["counts"]
        self.answered = {(stage, client) for stage, client in values["answered"]}


strategy("class_means", ClassMeansConfig, ClassMeansClient, ClassMeansServer, run_defaults={"data.stages.count": 2})
