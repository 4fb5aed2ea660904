"""The server half of a method: a Flower `Strategy` that can also be evaluated, exported and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import Options
from fedsim.data.federation import FederatedData
from fedsim.federated.aggregation import MeanMetrics, WeightedMean, restore_dtype
from fedsim.federated.exchange import Exchange
from fedsim.federated.types import State
from fedsim.flower import wire
from fedsim.flower.internals import broadcast, client_of
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.models.base import Classifier
from fedsim.models.functional import FunctionalModel
from fedsim.privacy.central import CentralPrivacy

Working = Callable[[str, int, int], None]
"""(task, steps done, steps in total): reports the server's work between rounds to the run's display."""


class Server(Strategy):
    """The server half of FedAvg, w <- sum_k n_k w_k / sum_k n_k, and the base of every server half."""

    replies: Literal["sum", "updates"] = "sum"
    """The input of aggregation: each chunk's weighted mean, or every client's own update."""
    reads_metrics = False
    """Whether the next model depends on clients' metrics, which no noise protects."""
    remarks: tuple[str, ...] = ()
    """Remarks for the user before the run, such as that a robust rule cannot work with these clients."""
    central: CentralPrivacy | None = None
    """Replaces `aggregate` if the run has client-level privacy."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        self.config = config
        self.data = data
        self.model = FunctionalModel(model)
        self.first = State(
            {name: value.detach() for name, value in model.named_parameters()}, dict(model.named_buffers())
        )
        self.current = self.initial()
        """The global tensors that were sent to the clients of this round."""
        self.measured: dict[str, float] = {}
        """Metrics of the round from `aggregate`, by name; reported with the clients' metrics."""
        self._broadcasts = 0
        self.senders: list[int] = []
        """The clients whose updates `aggregate` received in this round; for sums, one client per chunk."""

    def options(self, kind: type[Options]) -> Options:
        """Return the method's options, with this type."""
        assert isinstance(self.config.strategy, kind)
        return self.config.strategy

    @classmethod
    def reads_training_data(cls, config: RunConfig) -> bool:
        """Return whether the server reads clients' samples or labels, which is only possible in a simulation."""
        return False

    def initial(self) -> Tensors:
        """Return the global tensors of round 0, parameters and buffers, by name."""
        return {**self.first.params, **self.first.buffers}

    def split(self, tensors: Mapping[str, Tensor]) -> State:
        """Return global tensors, split into parameters and buffers."""
        buffers = self.first.buffers
        return State(
            {name: value for name, value in tensors.items() if name not in buffers},
            {name: value for name, value in tensors.items() if name in buffers},
        )

    def local_start(self) -> State:
        """Return the tensors that clients start to train in round 1, or tensors with the same names and shapes."""
        return self.split(self.initial())

    def constants(self) -> Tensors:
        """Return tensors that all clients receive with every model and do not train, such as a fixed classifier."""
        return {}

    def prepare_round(self, server_round: int, tensors: Tensors, working: Working) -> Tensors:
        """Do the server's own work before a round, and return the global tensors that the round starts from.

        State that it creates belongs in `state_dict`. A run that is stopped here repeats the work, so its random draws
        need addresses. Its time does not count as the clients' time.
        """
        return tensors

    def pictures(self) -> dict[str, Tensor]:
        """Return images for the run's report, {title: (N, C, H, W) uint8}."""
        return {}

    def aggregate(self, updates: Iterator[tuple[Tensors, float]]) -> Tensors | None:
        """Return the next global tensors from the (tensors, weight) of each update or chunk; None without any.

        The default is the weighted mean, computed in the given order. `self.current` is the model that the clients
        received.
        """
        mean = WeightedMean()
        for tensors, weight in updates:
            mean.add(tensors, weight)
        return mean.result() if mean.weight else None

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return {name: logits (B, C)} for every way to predict with the global model; the method's own is first."""
        return {"model": self.model.logits(state.params, state.buffers, x, train=False)}

    def export(self, tensors: Tensors) -> Tensors:
        """Return the state dict of a plain model that predicts as the first of `heads` does."""
        return tensors

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return (tensors, JSON values): the server's state between rounds besides the global model."""
        return {}, {}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""

    # A round ------------------------------------------------------------------------------------------------------

    @property
    def one_wave(self) -> bool:
        """Whether a round is a single wave: one message to each client."""
        return type(self).exchange is Server.exchange

    def exchange(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[tuple[ArrayRecord | None, MetricRecord | None]]:
        """Yield the messages of each wave of a round and receive their replies; return the new model and metrics.

        `fedsim.federated.exchange.conduct` drives it. A client that is lost in a wave gets no later messages.
        """
        replies = yield self.configure_train(server_round, arrays, config, grid)
        return self.aggregate_train(server_round, replies)

    def exchange_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[MetricRecord | None]:
        """Do the same for clients' evaluations of a model; return their metrics."""
        replies = yield self.configure_evaluate(server_round, arrays, config, grid)
        return self.aggregate_evaluate(server_round, replies)

    # Flower's interface -------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one training message per node, in the order of the grid's nodes."""
        config[wire.REPLY] = self.replies
        if self.central is not None:
            config[wire.CLIP_NORM] = self.central.clip_norm
        self.current = to_tensors(arrays, next(iter(self.first.params.values())).device)
        return self.messages(wire.TRAIN, server_round, arrays, config, grid.get_node_ids())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one evaluation message per node, in the order of the grid's nodes."""
        return self.messages(wire.EVALUATE, server_round, arrays, config, grid.get_node_ids())

    def messages(
        self,
        kind: str,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: Iterable[int],
        own: Mapping[int, ArrayRecord] | None = None,
    ) -> list[Message]:
        """Return one message per node, in order: the arrays, the constants, and the node's entry in `own`.

        `kind` is train, evaluate, or query.NAME for one of the client half's `queries`.
        """
        self._broadcasts += 1
        told = ConfigRecord(
            {**config, wire.SERVER_ROUND: server_round, wire.BROADCAST: f"{server_round}/{self._broadcasts}"}
        )
        content = RecordDict({wire.ARRAYS: arrays, wire.CONSTANTS: to_record(self.constants()), wire.CONFIG: told})
        return broadcast(content, list(nodes), kind, str(server_round), own)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new global tensors, in the dtypes of the old ones, and the mean of the clients' metrics.

        The metrics include those that the server itself has measured.
        """
        metrics = MeanMetrics()
        self.senders = []

        def updates() -> Iterator[tuple[Tensors, float]]:
            for reply in replies:
                # If sums are requested, one client of a chunk replies for all of them.
                if not reply.has_error() and wire.METRICS in reply.content:
                    own = scalars(reply.content.metric_records[wire.METRICS])
                    metrics.add(own)
                    if wire.ARRAYS in reply.content:
                        self.senders.append(client_of(reply.metadata.src_node_id))
                        yield to_tensors(wire.arrays_in(reply.content)), own[wire.WEIGHT]

        if self.central is None:
            aggregated = self.aggregate(updates())
        else:
            aggregated = self.central.aggregate(self.current, updates(), server_round)
        if aggregated is None:
            return None, None
        # Chunks send the means of integers, such as BatchNorm's counter, unrounded.
        like = self.initial()
        measured = MetricRecord({**metrics.result(), **self.measured})
        restored = {name: restore_dtype(aggregated[name], like[name].dtype) for name in like}
        return to_record(self.stepped(server_round, restored)), measured

    def stepped(self, server_round: int, aggregated: Tensors) -> Tensors:
        """Return w + lr (aggregated - w) for the parameters, with this round's lr of `server.*`; buffers stay."""
        lr = self.config.server.lr_at(server_round)
        if lr == 1:
            return aggregated
        params = self.split(aggregated).params
        return aggregated | {n: torch.lerp(self.current[n].to(value), value, lr) for n, value in params.items()}

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the unweighted mean over clients of each metric."""
        metrics = MeanMetrics(weighted=False)
        for reply in replies:
            if not reply.has_error():
                metrics.add(scalars(reply.content.metric_records[wire.METRICS]))
        return metrics.result()

    def summary(self) -> None:
        """Do nothing: the run folder describes the strategy."""
