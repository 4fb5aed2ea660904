"""Flower's own strategies. Their classes are unchanged, but adapted to the guarantees of our round loop.

The adaptations: strategies see only the sampled cohort and sample all of it; their shuffling is undone; Python's
generator is seeded while they run. Integer buffers are averaged here and stay integers. The adaptive strategies only
move parameters, because an adaptive step can make a running variance negative. Results have the dtypes of the inputs.
Garbage collections, one per reply, take almost no time. Krum, MultiKrum and Bulyan measure distances between clients'
updates, in float64. FedAdam's bias correction begins with t = 1, as in Adam; Flower's begins with t = 2.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from pydantic import Field

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError, TooFewReplies
from fedsim.federated.aggregation import WeightedMean, restore_dtype
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.flower import wire
from fedsim.flower.internals import seeded_choice
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.garbage import quick_collections
from fedsim.models.base import Classifier
from fedsim.randomness import torch_seed


class FedAvgMConfig(StrategyConfig):
    """Options of FedAvgM."""

    server_learning_rate: float = Field(1.0, gt=0)
    """Step of the server along the averaged update."""
    server_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last step that is kept."""


class FedAdagradConfig(StrategyConfig):
    """Options of FedAdagrad (arXiv:2003.00295)."""

    eta: float = Field(0.1, gt=0)
    """Server learning rate."""
    tau: float = Field(1e-3, gt=0)
    """Adaptivity: added to the root of the second moment."""


class FedAdamConfig(FedAdagradConfig):
    """Options of FedAdam and FedYogi (arXiv:2003.00295)."""

    eta: float = Field(0.01, gt=0)
    """Server learning rate."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""


class TrimmedConfig(StrategyConfig):
    """Options of FedTrimmedAvg."""

    beta: float = Field(0.2, ge=0, lt=0.5)
    """Share of the values cut off at each end, per coordinate."""


class KrumConfig(StrategyConfig):
    """Options of Krum and Bulyan."""

    num_malicious_nodes: int = Field(0, ge=0)
    """f, the number of clients in a round that may lie."""


class MultiKrumConfig(KrumConfig):
    """Options of MultiKrum."""

    num_nodes_to_select: int = Field(5, ge=1)
    """m, the number of updates that are averaged."""


_BY_DISTANCE = (flower.Krum, flower.MultiKrum, flower.Bulyan)


def degenerate(options: StrategyConfig, cohort: int) -> tuple[str, ...]:
    """Return why a robust rule protects against nobody with this many clients in a round; () if it does protect."""
    name, plain = options.name, "a plain mean, which one client can spoil"
    if isinstance(options, TrimmedConfig) and int(options.beta * cohort) == 0:
        return (
            f"{name} trims nobody: strategy.beta, {options.beta:g}, of {cohort} clients is below one; it is {plain}",
        )
    if name == "fedmedian" and cohort < 3:
        return (f"{name} of {cohort} clients is {plain}",)
    if isinstance(options, MultiKrumConfig) and options.num_nodes_to_select >= cohort:
        selected = f"num_nodes_to_select, {options.num_nodes_to_select},"
        return (f"{name} selects all: strategy.{selected} is not below the {cohort} clients of a round; it is FedAvg",)
    if name == "bulyan" and not options.model_dump()["num_malicious_nodes"]:
        return (f"{name} with strategy.num_malicious_nodes 0 leaves nobody out; it is {plain}",)
    if isinstance(options, KrumConfig) and cohort < 3:
        return (f"{name} of {cohort} clients has no distances to compare; it takes the first",)
    return ()


class FlowerServer(Server):
    """Runs one of Flower's strategy objects."""

    replies = "updates"

    def __init__(
        self,
        build: Callable[..., flower.FedAvg],
        parameters_only: bool,
        config: RunConfig,
        model: Classifier,
        data: FederatedData,
    ) -> None:
        super().__init__(config, model, data)
        self.cohort = min(config.cohort_size, int(np.count_nonzero(data.partition.sizes)))
        self._require_honest_majority()
        self.remarks = degenerate(config.strategy, self.cohort)
        self._relative = build in _BY_DISTANCE
        self._round_ahead = build is flower.FedAdam
        options = config.strategy.model_dump(exclude={"name"})
        self.inner = build(
            **options, fraction_train=1.0, fraction_evaluate=1.0,
            min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1,
        )  # fmt: skip
        buffers = self.first.buffers
        self._ours = {n for n, value in buffers.items() if parameters_only or not value.is_floating_point()}
        self._dtypes = {name: value.dtype for name, value in self.initial().items()}

    def _require_honest_majority(self) -> None:
        if self.cohort < self._needed():
            raise FedsimError(
                f"strategy.num_malicious_nodes: {self._liars} liars need a cohort of at least {self._needed()}, "
                f"got {self.cohort}"
            )

    @property
    def _liars(self) -> int:
        return int(getattr(self.config.strategy, "num_malicious_nodes", 0))

    def _needed(self) -> int:
        """Return the number of updates that the rule needs: n >= 2f + 3; for Bulyan n >= 4f + 3, even if f = 0."""
        if self.config.strategy.name == "bulyan":
            return 4 * self._liars + 3
        return 2 * self._liars + 3 if self._liars else 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of Flower's strategy, with our buffers put back into the model."""
        config[wire.REPLY] = self.replies
        self.current = to_tensors(arrays)
        theirs = self._without_ours(arrays)
        with seeded_choice(torch_seed(self.config.seed, "flower", server_round)):
            messages = list(self.inner.configure_train(server_round, theirs, config, grid))
        contents: dict[int, RecordDict] = {}
        for message in messages:  # usually all have the same content
            told = wire.told_in(message.content)
            told = ConfigRecord({**told, wire.BROADCAST: f"{server_round}/{len(contents)}"})
            contents.setdefault(
                id(message.content), RecordDict({**message.content, wire.ARRAYS: arrays, wire.CONFIG: told})
            )
        return [
            Message(
                contents[id(m.content)], m.metadata.dst_node_id, m.metadata.message_type, group_id=str(server_round)
            )
            for m in messages
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the result of Flower's strategy on the good replies, and our buffers, averaged."""
        good = [reply for reply in replies if not reply.has_error()]
        if not good:
            return None, None
        if len(good) < self._needed():
            raise TooFewReplies(
                f"round {server_round}: {len(good)} good replies, but {self.config.strategy.name} needs at least "
                f"{self._needed()} against {self._liars} liars"
            )
        common = set.intersection(*(set(reply.content.metric_records[wire.METRICS]) for reply in good))
        buffers = WeightedMean()
        for reply in good:
            arrays, metrics = reply.content.array_records[wire.ARRAYS], reply.content.metric_records[wire.METRICS]
            if self._ours:
                kept = _record({name: arrays[name] for name in self._ours})
                buffers.add(to_tensors(kept), scalars(metrics)[wire.NUM_EXAMPLES])
            theirs = self._without_ours(arrays)
            reply.content[wire.ARRAYS] = self._moved(theirs, -1) if self._relative else theirs
            reply.content[wire.METRICS] = MetricRecord(
                {n: v for n, v in metrics.items() if n in common - {wire.WEIGHT}}
            )
        with seeded_choice(torch_seed(self.config.seed, "flower", server_round)), quick_collections():
            aggregated, measured = self.inner.aggregate_train(server_round - self._round_ahead, good)
        if aggregated is None:
            return None, measured
        if self._relative:
            aggregated = self._moved(aggregated, 1)
        tensors = to_tensors(aggregated) | (buffers.result() if self._ours else {})
        restored = {n: restore_dtype(tensors[n], dtype) for n, dtype in self._dtypes.items()}
        return to_record(self.stepped(server_round, restored)), measured

    def _moved(self, arrays: ArrayRecord, sign: int) -> ArrayRecord:
        """Return models minus the global one (-1), or such differences plus the global one (1), in float64.

        In float32, rounding would hide the squared distance between two models after a small step.
        """
        return to_record(
            {name: value.double() + sign * self.current[name].double() for name, value in to_tensors(arrays).items()}
        )

    def _without_ours(self, arrays: ArrayRecord) -> ArrayRecord:
        return _record({name: array for name, array in arrays.items() if name not in self._ours})

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the arrays in attributes of Flower's strategy: moments, momenta, the last model."""
        tensors: Tensors = {}
        kinds: dict[str, Any] = {}
        for attribute, value in vars(self.inner).items():
            if isinstance(value, ArrayRecord):
                named = to_tensors(value)
            elif isinstance(value, dict) and value and all(isinstance(v, np.ndarray) for v in value.values()):
                named = {name: torch.from_numpy(v) for name, v in value.items()}
            elif isinstance(value, list) and value and all(isinstance(v, np.ndarray) for v in value):
                named = {f"{i:06d}": torch.from_numpy(v) for i, v in enumerate(value)}
            else:
                continue
            kinds[attribute] = type(value).__name__
            tensors |= {f"{attribute}/{name}": tensor for name, tensor in named.items()}
        return tensors, kinds

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore the arrays."""
        for attribute, kind in values.items():
            prefix = f"{attribute}/"
            named = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            # safetensors sorts names, but a strategy that zips its arrays needs the order of the model.
            order = [n for n in self._dtypes if n in named] if kind != "list" else sorted(named)
            if kind == "ArrayRecord":
                value: Any = to_record({n: named[n] for n in order})
            elif kind == "dict":
                value = {n: named[n].numpy() for n in order}
            else:
                value = [named[n].numpy() for n in order]
            setattr(self.inner, attribute, value)


def _record(arrays: dict[str, Any]) -> ArrayRecord:
    record = ArrayRecord()
    record.update(arrays)
    return record


def _server(build: Callable[..., flower.FedAvg], parameters_only: bool = False) -> Callable[..., Server]:
    def server(config: RunConfig, model: Classifier, data: FederatedData) -> Server:
        return FlowerServer(build, parameters_only, config, model, data)

    return server


strategy("fedavgm", FedAvgMConfig, Client, _server(flower.FedAvgM, True), summary="FedAvgM (Flower): server momentum.")
strategy("fedadagrad", FedAdagradConfig, Client, _server(flower.FedAdagrad, True), summary="FedAdagrad (Flower).")
strategy("fedadam", FedAdamConfig, Client, _server(flower.FedAdam, True), summary="FedAdam (Flower).")
strategy("fedyogi", FedAdamConfig, Client, _server(flower.FedYogi, True), summary="FedYogi (Flower).")
strategy("fedmedian", StrategyConfig, Client, _server(flower.FedMedian), summary="Median per coordinate (Flower).")
strategy("fedtrimmedavg", TrimmedConfig, Client, _server(flower.FedTrimmedAvg), summary="Trimmed mean (Flower).")
strategy("krum", KrumConfig, Client, _server(flower.Krum), summary="Krum (Flower): the most central update.")
strategy("multikrum", MultiKrumConfig, Client, _server(flower.MultiKrum), summary="MultiKrum (Flower).")
strategy("bulyan", KrumConfig, Client, _server(flower.Bulyan), summary="Bulyan (Flower): trimmed MultiKrum.")
