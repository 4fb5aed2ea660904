"""The server half of a method: a Flower `Strategy` that can be evaluated, exported and put to disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.federated.client import Options, State
from fedsim.flower.internals import broadcast, client_of
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.models.functional import FunctionalModel
from fedsim.randomness import generator

if TYPE_CHECKING:
    from fedsim.config.run import RunConfig
    from fedsim.data.federation import FederatedData
    from fedsim.models.base import Classifier
    from fedsim.privacy.central import CentralPrivacy


class Server(Strategy):
    """The server half of FedAvg, w <- sum_k n_k w_k / sum_k n_k, and the base of every server half."""

    replies: Literal["sum", "updates"] = "sum"
    """What aggregation needs: each chunk's weighted mean, or every client's own update."""
    reads_metrics = False
    """Whether the next model depends on clients' metrics, which no noise protects."""
    central: CentralPrivacy | None = None
    """Takes the place of `aggregate` where the run has client-level privacy."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        self.config = config
        self.data = data
        self.model = FunctionalModel(model)
        self.first = State(
            {name: value.detach() for name, value in model.named_parameters()}, dict(model.named_buffers())
        )
        self.current = self.initial()
        """The global tensors that the clients of this round were sent."""
        self.measured: dict[str, float] = {}
        """What `aggregate` has to say about the round, by name; reported beside the clients' metrics."""
        self.senders: list[int] = []
        """The clients of the updates that `aggregate` has taken in this round; of chunks, one for each."""

    def options(self, kind: type[Options]) -> Options:
        """Return the method's options, which are of this type."""
        assert isinstance(self.config.strategy, kind)
        return self.config.strategy

    def initial(self) -> Tensors:
        """Return the global tensors of round 0, parameters and buffers by name."""
        return {**self.first.params, **self.first.buffers}

    def split(self, tensors: Mapping[str, Tensor]) -> State:
        """Return global tensors sorted into parameters and buffers."""
        buffers = self.first.buffers
        return State(
            {name: value for name, value in tensors.items() if name not in buffers},
            {name: value for name, value in tensors.items() if name in buffers},
        )

    def constants(self) -> Tensors:
        """Return what goes to the clients with every model and is not trained, such as a fixed classifier."""
        return {}

    def aggregate(self, updates: Iterator[tuple[Tensors, float]]) -> Tensors | None:
        """Return the next global tensors from (what was sent, weight) of each update or chunk, None if there is none.

        Here it is the weighted mean, taken in the order they come. `self.current` is what clients got.
        """
        mean = WeightedMean()
        for tensors, weight in updates:
            mean.add(tensors, weight)
        return mean.result() if mean.weight else None

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return the logits (B, C) of every way to predict with the global model; the first is the method's own."""
        return {"model": self.model.logits(state.params, state.buffers, x, train=False)}

    def export(self, tensors: Tensors) -> Tensors:
        """Return the state dict of the plain model that predicts as the first of `heads` does."""
        return tensors

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return (tensors, JSON values) of what the server carries between rounds besides the global model."""
        return {}, {}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""

    # Flower's interface -------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one training message per node of the grid, in its order."""
        config["reply"] = self.replies
        if self.central is not None:
            config["clip-norm"] = self.central.clip_norm
        self.current = to_tensors(arrays, next(iter(self.first.params.values())).device)
        return self._messages("train", server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one evaluation message per node of the grid, in its order."""
        return self._messages("evaluate", server_round, arrays, config, grid)

    def _messages(
        self, kind: str, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "constants": to_record(self.constants()), "config": config})
        return broadcast(content, list(grid.get_node_ids()), kind, str(server_round))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new global tensors, in the types of the old ones, and the mean of the clients' metrics.

        With them comes what the server itself has measured.
        """
        metrics = MeanMetrics()
        self.senders = []

        def updates() -> Iterator[tuple[Tensors, float]]:
            for reply in replies:
                # Where sums are asked for, one client of a chunk answers for all of them.
                if not reply.has_error() and "metrics" in reply.content:
                    own = scalars(reply.content.metric_records["metrics"])
                    metrics.add(own)
                    if "arrays" in reply.content:
                        self.senders.append(client_of(reply.metadata.src_node_id))
                        yield to_tensors(reply.content.array_records["arrays"]), own["weight"]

        if self.central is None:
            aggregated = self.aggregate(updates())
        else:
            aggregated = self.central.aggregate(self.current, updates(), server_round)
        if aggregated is None:
            return None, None
        # Chunks send the means of integers, such as BatchNorm's counter, unrounded.
        like = self.initial()
        measured = MetricRecord({**metrics.result(), **self.measured})
        return to_record({name: restore_dtype(aggregated[name], like[name].dtype) for name in like}), measured

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the unweighted mean over clients of each of their metrics."""
        metrics = MeanMetrics(weighted=False)
        for reply in replies:
            if not reply.has_error():
                metrics.add(scalars(reply.content.metric_records["metrics"]))
        return metrics.result()

    def summary(self) -> None:
        """Do nothing: the run folder tells what the strategy is."""


class WeightedMean:
    """A running weighted mean of named tensors: m <- m + (w_i / sum_{j <= i} w_j) (x_i - m).

    One accumulator in the summands' own type, float64 for integers, whatever their number; entries that are equal in
    all of them keep their bits, as a sum that is divided in the end would not. The rounding errors of n summands add up
    to about sqrt(n / 3) times that of one.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self._means: Tensors = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._owned = False

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add a summand, which nobody writes to afterwards; all have the same names and shapes."""
        if not weight:
            return
        self.weight += weight
        summand = {n: value if value.is_floating_point() else value.double() for n, value in tensors.items()}
        if not self._means:
            self._means, self._dtypes = summand, {name: value.dtype for name, value in tensors.items()}
            return
        means, share = list(self._means.values()), weight / self.weight
        values = [summand[name] for name in self._means]
        if self._owned:
            torch._foreach_lerp_(means, values, share)
        else:  # the first summand is somebody else's
            self._means = dict(zip(self._means, torch._foreach_lerp(means, values, share), strict=True))
            self._owned = True

    def result(self) -> Tensors:
        """Return the mean in the summands' own types; integers, such as BatchNorm's counter, are rounded."""
        return {name: restore_dtype(mean, self._dtypes[name]) for name, mean in self._means.items()}


def restore_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float tensor as `dtype`, rounded to the nearest integer if that is an integer type."""
    return (value if dtype.is_floating_point else value.round()).to(dtype)


class MeanMetrics:
    """The mean over clients of each scalar metric, weighted by their number of examples or not."""

    def __init__(self, weighted: bool = True) -> None:
        self.weighted = weighted
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, metrics: dict[str, float]) -> None:
        """Add one client's metrics; it need not have all of them."""
        weight = metrics["num-examples"] if self.weighted else 1.0
        for name, value in metrics.items():
            if name not in ("num-examples", "weight"):
                self._sums[name] = self._sums.get(name, 0.0) + weight * value
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def result(self) -> MetricRecord:
        """Return the means."""
        return MetricRecord({name: total / self._weights[name] for name, total in self._sums.items()})


def draw_cohort(config: RunConfig, sizes: npt.NDArray[np.int64], server_round: int) -> Sequence[int]:
    """Return the clients of a round, largest first; `sizes` are all clients' numbers of samples."""
    rng = generator(config.seed, "cohort", server_round)
    central = config.privacy.client
    if central is not None and central.sampling == "poisson":
        return poisson_cohort(rng, sizes, config.cohort_size / config.clients)
    return sample_cohort(rng, sizes, config.cohort_size)


def poisson_cohort(rng: np.random.Generator, sizes: npt.NDArray[np.int64], rate: float) -> Sequence[int]:
    """Return clients that have data, each drawn with probability `rate` whatever the others are; maybe none."""
    drawn = np.flatnonzero((rng.random(len(sizes)) < rate) & (sizes > 0))
    return _largest_first(drawn, sizes)


def sample_cohort(rng: np.random.Generator, sizes: npt.NDArray[np.int64], cohort: int) -> Sequence[int]:
    """Return the clients of a round, drawn without replacement from those that have data, largest first.

    Every client draws a lot and the lowest take part, so that a federation without some client has the same cohort in
    every round which that client was not in. Largest first lets long chunks start early, and puts clients of like size
    into one chunk.
    """
    lots = rng.random(len(sizes))
    able = np.flatnonzero(sizes)
    lowest = np.argpartition(lots[able], cohort)[:cohort] if cohort < len(able) else slice(None)
    return _largest_first(np.sort(able[lowest]), sizes)


def _largest_first(drawn: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64]) -> Sequence[int]:
    return drawn[np.argsort(-sizes[drawn], kind="stable")].tolist()  # type: ignore[no-any-return]
