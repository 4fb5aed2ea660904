"""What a worker does with a chunk: the client half of a run, on this process's device, whichever engine calls it."""

from __future__ import annotations

import itertools
import operator
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from torch import Tensor

from fedsim.allocator import keep_freed_memory
from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.data.longtail import shot_groups
from fedsim.data.transforms import crop_padding
from fedsim.faults import fault_of
from fedsim.federated.aggregation import MeanMetrics, WeightedMean
from fedsim.federated.queries import PREFIX, Query, answer, rows_of
from fedsim.federated.registry import load_strategy
from fedsim.federated.types import State, Update
from fedsim.flower.internals import OWN, broadcast_of
from fedsim.flower.records import Tensors, from_numpy, to_record, to_tensors
from fedsim.models.build import build_model, has_batch_coupling
from fedsim.models.start import load_start
from fedsim.privacy.address import Secrets
from fedsim.privacy.central import clipped_updates
from fedsim.training.data import Job, TrainingData
from fedsim.training.dp_sgd import PrivateSteps
from fedsim.training.precision import prepare, set_matrix_units
from fedsim.training.trainer import Trained, Trainer

_EVAL_BATCH = 500

OWN_UPDATES = "own-updates"
"""Key of a training message's configuration: every client's own update is wanted, if only the sum is aggregated."""
_OWN = "own-"

Floats = npt.NDArray[np.float64]


class Reply(NamedTuple):
    """One client's answer: a content, or the reason why there is none; and its new state if that changed."""

    content: RecordDict | None
    error: str = ""
    state: RecordDict | None = None


def resolve_device(name: str) -> torch.device:
    """Return the device that `engine.device` names; auto is a GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


@dataclass(frozen=True)
class _Received:
    """A broadcast on this worker's device; kept, since all clients of a round receive the same one."""

    records: Sequence[object]
    """What it is made of."""
    state: State
    constants: Tensors
    clip_norm: float | None
    """The largest norm of an update that client-level privacy allows in this round."""


class _Sent(NamedTuple):
    """One message of a chunk."""

    client: int
    state: RecordDict
    content: RecordDict


def _broadcasts(messages: Sequence[_Sent]) -> Iterator[Sequence[_Sent]]:
    """Yield runs of messages that are of one broadcast; one without an id is alone."""
    ids = [broadcast_of(sent.content) or number for number, sent in enumerate(messages)]
    for _, some in itertools.groupby(zip(ids, messages, strict=True), lambda pair: pair[0]):
        yield [sent for _, sent in some]


class Worker:
    """Trains, evaluates and asks clients of one run."""

    def __init__(self, config: RunConfig, data: FederatedData) -> None:
        torch.set_num_threads(config.engine.threads)
        keep_freed_memory()
        self.config, self.data = config, data
        self.device = resolve_device(config.engine.device)
        dataset = data.dataset
        model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.seed)
        if config.start is not None:
            load_start(model, config.start)
        model = prepare(model, config.training, self.device)
        set_matrix_units(config.training)
        self.client = load_strategy(config.strategy.name).client(config, model)
        dtype = model.classifier.weight.dtype
        mean, std = (torch.tensor(v, device=self.device) for v in (dataset.mean, dataset.std))
        self.train_set = TrainingData(
            from_numpy(dataset.x_train).to(self.device), self._targets(data.visible_labels, dtype), mean, std,
            config.data.augment, crop_padding(dataset.input_shape), dtype,
        )  # fmt: skip
        self._test_set: TrainingData | None = None
        self._reads_unlabelled = any("unlabelled" in phase.streams for phase in self.client.phases())
        example = config.privacy.example
        private = None if example is None else PrivateSteps(example, config.training, Secrets(config))
        self.trainer = Trainer(
            self.client, self.train_set, config.training, config.seed, has_batch_coupling(model), private
        )
        self.queries = {f"{PREFIX}{name}": query for name, query in self.client.queries().items()}
        """By the type of their messages."""
        self._buffer_names = {name for name, _ in model.named_buffers()}
        self._received: _Received | None = None

    def _targets(self, y: npt.NDArray[Any], dtype: torch.dtype) -> Tensor:
        tensor = from_numpy(y).to(self.device)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        """Answer one message per client, in order. `kind` is "train", "evaluate" or the type of a query.

        A client that fails costs its own reply; the others of its chunk are answered.
        """
        query = self.queries.get(kind)
        handle = {"train": self._train, "evaluate": self._evaluate}.get(kind)
        if handle is None and query is None:
            return [Reply(None, f"no client function for messages of type {kind!r}")] * len(clients)
        replies: list[Reply] = []
        sent = list(map(_Sent, clients, states, contents))
        for some in _broadcasts(sent):  # clients that got the same model go together
            if handle is not None:
                replies += handle(some)
            else:
                assert query is not None
                replies += [self._ask(query, each) for each in some]
        return replies

    def _receive(self, content: RecordDict) -> _Received:
        # All messages of a broadcast share its records; where they are copies, each is read anew.
        records = [content.get(key) for key in ("arrays", "constants", "config")]
        if self._received is None or any(map(operator.is_not, self._received.records, records)):
            tensors = to_tensors(content.array_records["arrays"], self.device)
            constants = to_tensors(content.array_records.get("constants", ArrayRecord()), self.device)
            clip_norm = content.config_records["config"].get("clip-norm")
            assert clip_norm is None or isinstance(clip_norm, float)
            self._received = _Received(records, self._split(tensors), constants, clip_norm)
        return self._received

    def _own(self, content: RecordDict) -> Tensors:
        """Return what the receiver alone was sent."""
        return to_tensors(content.array_records.get(OWN, ArrayRecord()), self.device)

    def _split(self, tensors: Tensors) -> State:
        buffers = {name: value for name, value in tensors.items() if name in self._buffer_names}
        return State({name: value for name, value in tensors.items() if name not in buffers}, buffers)

    def _personal(self, client: int, start: State, state: RecordDict) -> State:
        if "personal" in state:
            records = state.array_records
            return State(*(to_tensors(records[part], self.device) for part in ("personal", "personal-buffers")))
        return self.client.personal(client, start)

    def job(self, client: int, personal: State, server_round: int, most: int | None = None) -> Job:
        """Return what a client trains on in a round, or the first `most` samples of each stream."""
        unlabelled = self.data.unlabelled_at(server_round)[client][: most if self._reads_unlabelled else 0]
        return Job(client, self.data.at(server_round)[client][:most], personal, unlabelled)

    # Training -----------------------------------------------------------------------------------------------------

    def _train(self, sent: Sequence[_Sent]) -> list[Reply]:
        content = sent[0].content
        received = self._receive(content)
        config = content.config_records["config"]
        server_round = _round_of(content)
        replies: dict[int, Reply] = {}
        jobs = []
        for client, state, own in sent:
            fault = fault_of(self.config.faults, self.config.seed, server_round, client)
            if fault in ("dropout", "error"):
                replies[client] = Reply(None, f"injected {fault}")
            else:
                begun = self._split(self._own(own)) if OWN in own else None
                model = received.state if begun is None else received.state.merged(begun)
                job = self.job(client, self._personal(client, model, state), server_round)
                jobs.append(job._replace(start=begun))
        chunk = _ChunkSum(bool(config.get(OWN_UPDATES))) if config.get("reply") == "sum" else None
        together = self.config.training.cohort == "vectorized"
        for group in [jobs] if together and jobs else [[job] for job in jobs]:
            replies |= self._train_group(received, group, server_round, chunk)
        if chunk is not None:
            carrier = next(
                (reply.content for each in sent if (reply := replies[each.client]).content is not None), None
            )
            if carrier is not None:
                carrier["metrics"] = chunk.metrics()
                if chunk.mean.weight:
                    carrier["arrays"] = to_record(chunk.mean.result())
        return [replies[each.client] for each in sent]

    def _train_group(
        self, received: _Received, jobs: list[Job], server_round: int, chunk: _ChunkSum | None
    ) -> dict[int, Reply]:
        try:
            trained = self.trainer.train(received.state, received.constants, jobs, server_round)
            update = self._update(received, trained, jobs, server_round)
        except Exception as error:
            if len(jobs) > 1:  # find out whose fault it is: the others still count
                return {
                    client: reply
                    for job in jobs
                    for client, reply in self._train_group(received, [job], server_round, chunk).items()
                }
            return {jobs[0].client: _failed(error)}
        examples = np.array([jobs[lane].num_samples for lane in trained.lanes], np.float64)
        metrics = {name: np.array(value.tolist()) for name, value in trained.metrics.items()} | self._audit(trained)
        good = np.arange(len(examples))
        mean = None if chunk is None else weighted_mean(update.sent, update.weights)
        # A mean is finite only where every summand is, which saves looking at each.
        if mean is None or not _is_finite(mean):
            good = np.flatnonzero(_finite_rows(update.sent))
            if chunk is not None and 0 < len(good) < len(examples):
                mean = weighted_mean({name: value[good] for name, value in update.sent.items()}, update.weights[good])
        if chunk is not None and len(good):
            chunk.add(
                mean or {}, float(update.weights[good].sum()), examples[good], {n: v[good] for n, v in metrics.items()}
            )
        replies = {jobs[lane].client: Reply(None, "its update holds NaN or Inf") for lane in trained.lanes}
        for row in good.tolist():
            content = RecordDict()
            if chunk is None or chunk.own_updates:
                prefix = "" if chunk is None else _OWN
                content[f"{prefix}arrays"] = to_record({name: value[row] for name, value in update.sent.items()})
                own: dict[str, Any] = {
                    n: float(values[row]) for n, values in metrics.items() if values[row] == values[row]
                }
                own |= {"num-examples": int(examples[row]), "weight": float(update.weights[row])}
                content[f"{prefix}metrics"] = MetricRecord(own)
            client = jobs[trained.lanes[row]].client
            replies[client] = Reply(content, state=_kept(update.kept, row))
        return replies

    def _update(self, received: _Received, trained: Trained, jobs: list[Job], server_round: int) -> Update:
        for row, lane in enumerate(trained.lanes):
            if fault_of(self.config.faults, self.config.seed, server_round, jobs[lane].client) == "nan":
                for value in trained.state.params.values():
                    value[row] = torch.nan
        sent: Tensors = {}
        kept = State({}, {})
        model = received.state.merged(jobs[0].start or State({}, {}))
        for part, like, own in zip(trained.state, model, kept, strict=True):
            for name, value in part.items():
                (sent if name in like else own)[name] = value
        weights = torch.tensor([jobs[lane].num_samples for lane in trained.lanes], dtype=torch.float64)
        update = Update(sent, kept, weights, trained.steps, trained.samples, trained.drawn)
        update = self.client.finish(update, trained.extras)
        central = self.config.privacy.client
        if central is None or received.clip_norm is None:
            return update
        start = received.state.params | received.state.buffers
        return clipped_updates(update, start, received.clip_norm, adaptive=central.clipping == "adaptive")

    def _audit(self, trained: Trained) -> dict[str, Floats]:
        """Measure what was noted of samples against their labels, which nothing before this has seen."""
        out: dict[str, Floats] = {}
        for audit, annotated in trained.audits:
            for row, each in enumerate(annotated):
                if each is not None:
                    labels = from_numpy(self.data.dataset.y_train[each.rows]).to(self.device)
                    for name, value in audit(each.annotation, labels).items():
                        out.setdefault(name, np.full(len(annotated), np.nan))[row] = float(value)
        return out

    # Queries ------------------------------------------------------------------------------------------------------

    def _ask(self, query: Query, sent: _Sent) -> Reply:
        try:
            received = self._receive(sent.content)
            personal = self._personal(sent.client, received.state, sent.state)
            server_round = _round_of(sent.content)
            rows = self.job(sent.client, personal, server_round).rows
            rows = rows_of(query, rows, self.config.seed, server_round, sent.client)
            state, own = received.state.merged(personal), self._own(sent.content)
            sums = answer(query, state, own, received.constants, self.train_set, rows)
        except Exception as error:
            return _failed(error)
        return Reply(RecordDict({"arrays": to_record(sums), "metrics": MetricRecord({"num-examples": len(rows)})}))

    # Evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self, sent: Sequence[_Sent]) -> list[Reply]:
        received = self._receive(sent[0].content)
        replies = []
        for client, state, content in sent:
            try:
                model = received.state.merged(self._split(self._own(content)))
                model = model.merged(self._personal(client, model, state))
                replies.append(Reply(self._score(client, model, received.constants, _round_of(content))))
            except Exception as error:
                replies.append(_failed(error))
        return replies

    @torch.no_grad()
    def _score(self, client: int, state: State, constants: Tensors, server_round: int) -> RecordDict:
        """Measure a client's predictions on its own test samples; a client without any reports nothing.

        Where classes arrive in stages, those to come are neither asked for nor predicted.
        """
        held, seen = self.data.client_test[client], self.data.seen(server_round)
        if seen is not None:
            dataset = self.data.dataset
            y = dataset.y_train if self.data.client_test_source == "train" else dataset.y_test
            held = held[seen[y[held]]]
        rows = torch.from_numpy(held).to(self.device)
        metrics: dict[str, Any] = {"num-examples": len(rows)}
        if len(rows):
            dataset = self.data.dataset
            owned = np.bincount(dataset.strata_train[self.data.partition[client]], minlength=dataset.num_strata)
            if len(owned) < self.client.num_classes:  # it does not know its classes, so that none is absent
                owned = np.full(self.client.num_classes, owned[0])
            parts: dict[str, list[Tensor]] = {}
            for some in torch.split(rows, _EVAL_BATCH):
                for head, logits in self.client.heads(state, constants, self._tests.batch(some, None)[0]).items():
                    parts.setdefault(head, []).append(logits)
            labels = self._tests.y[rows]
            for number, (head, logits_parts) in enumerate(parts.items()):
                outputs = torch.cat(logits_parts)
                if seen is not None:
                    owned = np.where(seen, owned, 0)
                    outputs = outputs.masked_fill(~torch.from_numpy(seen).to(outputs.device), -torch.inf)
                if dataset.is_regression:
                    measured = {"mse": float((outputs[:, 0] - labels).square().mean())}
                else:
                    measured = score(outputs, labels, owned, masked=self.client.masks_absent_classes)
                metrics |= {name if number == 0 else f"{head}:{name}": value for name, value in measured.items()}
        return RecordDict({"metrics": MetricRecord(metrics)})

    @property
    def _tests(self) -> TrainingData:
        if self.data.client_test_source == "train":
            return replace(self.train_set, augment="none")
        if self._test_set is None:
            dataset = self.data.dataset
            self._test_set = replace(
                self.train_set,
                x=from_numpy(dataset.x_test).to(self.device),
                y=self._targets(dataset.y_test, self.train_set.dtype),
            )
        return self._test_set


def score(logits: Tensor, labels: Tensor, owned: npt.NDArray[np.int64], *, masked: bool) -> dict[str, float]:
    """Return a client's accuracies in [0, 1]: with absent classes ruled out, without, and by its own shot groups.

    Parameters
    ----------
    logits
        (N, C).
    labels
        (N,) int64.
    owned
        (C,) training samples of each class that the client has.
    masked
        Which of the two is the method's own `accuracy`, and which the groups are measured with.
    """
    absent = torch.from_numpy(owned == 0).to(logits.device)
    hits = {
        "unmasked": (logits.argmax(1) == labels).cpu().numpy(),
        "masked": (logits.masked_fill(absent, -torch.inf).argmax(1) == labels).cpu().numpy(),
    }
    own = hits["masked" if masked else "unmasked"]
    metrics = {"accuracy": own.mean()} | {f"accuracy_{rule}": right.mean() for rule, right in hits.items()}
    for group, classes in shot_groups(owned).items():
        there = np.isin(labels.cpu().numpy(), classes)
        if there.any():
            metrics[f"accuracy_{group}"] = own[there].mean()
    return {name: float(value) for name, value in metrics.items()}


def _round_of(content: RecordDict) -> int:
    return int(content.config_records["config"]["server-round"])  # type: ignore[arg-type]  # its values are of many types


def own_update(content: RecordDict) -> RecordDict:
    """Return the arrays and metrics that one client sent: beside the sum that it carries for its chunk, or alone."""
    prefix = _OWN if f"{_OWN}arrays" in content else ""
    return RecordDict({key: content[f"{prefix}{key}"] for key in ("arrays", "metrics")})


def _failed(error: Exception) -> Reply:
    return Reply(None, f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}")


def _kept(state: State, row: int) -> RecordDict | None:
    """Return what a client keeps, copied: a view would keep its whole chunk in memory."""
    if not state.params and not state.buffers:
        return None
    params, buffers = ({name: value[row].clone() for name, value in part.items()} for part in state)
    return RecordDict({"personal": to_record(params), "personal-buffers": to_record(buffers)})


class _ChunkSum:
    """What a chunk's clients add up to, where the server needs no more than that."""

    def __init__(self, own_updates: bool) -> None:
        self.own_updates = own_updates
        self.mean = WeightedMean()
        self._metrics = MeanMetrics()
        self._examples = 0.0

    def add(self, mean: Tensors, weight: float, examples: Floats, metrics: Mapping[str, Floats]) -> None:
        """Add clients: the weighted mean of what they send, and each one's number of examples and metrics."""
        self.mean.add(mean, weight)
        for name, values in metrics.items():
            measured = ~np.isnan(values)
            if total := float(examples[measured].sum()):
                mean_value = float((values[measured] * examples[measured]).sum()) / total
                self._metrics.add({"num-examples": total, name: mean_value})
        self._examples += float(examples.sum())

    def metrics(self) -> MetricRecord:
        """Return the clients' metrics, weighted by their examples, and their total weights."""
        record = self._metrics.result()
        record["num-examples"], record["weight"] = self._examples, self.mean.weight
        return record


def _is_finite(tensors: Tensors) -> bool:
    return bool(torch.stack([value.sum() for value in tensors.values()]).sum().isfinite())


def _finite_rows(tensors: Tensors) -> npt.NDArray[np.bool_]:
    """Return per client, (clients,), whether all of its tensors are finite: a sum is not where a summand is not."""
    sums = [value.reshape(len(value), -1).sum(1).double() for value in tensors.values()]
    return torch.stack(sums).sum(0).isfinite().cpu().numpy()


def weighted_mean(tensors: Tensors, weights: Tensor) -> Tensors:
    """Return sum_i w_i tensor[i] / sum_i w_i of stacked tensors (N, ...); integers come back as float64.

    One summand, or none that weighs anything, makes the first.
    """
    total = weights.sum()
    if len(weights) == 1 or not total:
        return {name: value[0] for name, value in tensors.items()}
    shares = weights / total
    out = {}
    for name, value in tensors.items():
        real = value if value.is_floating_point() else value.double()
        out[name] = torch.tensordot(shares.to(real.device, real.dtype), real, dims=1)
    return out
