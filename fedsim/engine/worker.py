"""Runs the client half of a method on the chunks of a run, on this process's device, for every engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict

from fedsim.allocator import keep_freed_memory
from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.engine.answers import Answers
from fedsim.engine.client_scores import ClientScores
from fedsim.engine.inbox import ChunkMessage, Inbox, Received, by_broadcast
from fedsim.engine.personal import read_personal
from fedsim.engine.reply import Reply, failed
from fedsim.faults import lost_by, spoil
from fedsim.federated.client import Client
from fedsim.federated.queries import Query
from fedsim.federated.registry import load_strategy
from fedsim.federated.types import State, Update
from fedsim.flower import wire
from fedsim.flower.records import Tensors, to_record
from fedsim.models.build import has_batch_coupling
from fedsim.privacy.address import Secrets
from fedsim.privacy.central import clipped_updates
from fedsim.training.adapt import adapted
from fedsim.training.audits import measured
from fedsim.training.data import ClientJob, training_data
from fedsim.training.dp_sgd import PrivateSteps
from fedsim.training.first_model import first_model
from fedsim.training.precision import set_matrix_units, to_run_format
from fedsim.training.queries import answer, rows_of
from fedsim.training.trainer import TrainedLanes, Trainer


def resolve_device(name: str) -> torch.device:
    """Return the device for `engine.device`; auto is a GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


class Worker:
    """Trains, evaluates and queries the clients of one run; `half` replaces the method's client half."""

    def __init__(self, config: RunConfig, data: FederatedData, half: type[Client] | None = None) -> None:
        torch.set_num_threads(config.engine.threads)
        keep_freed_memory()
        self.config, self.data = config, data
        for file in config.plugins:
            file.admit()
        self.device = resolve_device(config.engine.device)
        dataset = data.dataset
        model = to_run_format(first_model(config, dataset), config.training, self.device)
        set_matrix_units(config.training)
        self.client = (half or load_strategy(config.strategy.name).client)(config, model)
        self.train_set = training_data(data, config.data.augment, self.device, model.classifier.weight.dtype)
        self._reads_unlabelled = any("unlabelled" in phase.streams for phase in self.client.phases())
        example = config.privacy.example
        private = None if example is None else PrivateSteps(example, config.training, Secrets(config))
        self.trainer = Trainer(
            self.client, self.train_set, config.training, config.seed, has_batch_coupling(model), private
        )
        self.queries = {f"{wire.QUERY}{name}": query for name, query in self.client.queries().items()}
        """{message type: query}."""
        self._inbox = Inbox(self.device, {name for name, _ in model.named_buffers()})
        self._scores = ClientScores(self.client, data, self.train_set)
        held_out = None if data.validation is None else data.validated_on(data.validation)
        self._held_out = None if held_out is None else ClientScores(self.client, held_out, self.train_set)

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        """Answer one message per client, in order. `kind` is "train", "evaluate" or the type of a query.

        If a client fails, only its own reply is an error.
        """
        query = self.queries.get(kind)
        handle = {wire.TRAIN: self._train, wire.EVALUATE: self._evaluate}.get(kind)
        if handle is None and query is None:
            return [Reply(None, f"no client function for messages of type {kind!r}")] * len(clients)
        replies: list[Reply] = []
        sent = list(map(ChunkMessage, clients, states, contents))
        for some in by_broadcast(sent):  # clients with the same model are handled together
            if handle is not None:
                replies += handle(some)
            else:
                assert query is not None
                replies += [self._ask(query, each) for each in some]
        return replies

    def _personal(self, client: int, start: State, state: RecordDict) -> State:
        kept = read_personal(state, self.device)
        return self.client.personal(client, start) if kept is None else kept

    def job(self, client: int, personal: State, server_round: int, most: int | None = None) -> ClientJob:
        """Return a client's training samples of a round, or the first `most` samples of each stream."""
        unlabelled = self.data.unlabelled_at(server_round)[client][: most if self._reads_unlabelled else 0]
        return ClientJob(client, self.data.at(server_round)[client][:most], personal, unlabelled)

    # Training -----------------------------------------------------------------------------------------------------

    def _train(self, sent: Sequence[ChunkMessage]) -> list[Reply]:
        content = sent[0].content
        received, told = self._inbox.broadcast(content), wire.told_in(content)
        replies: dict[int, Reply] = {}
        jobs = []
        for client, state, own in sent:
            lost = lost_by(self.config.faults, self.config.seed, received.server_round, client)
            if lost is not None:
                replies[client] = Reply(None, lost)
            else:
                begun = self._inbox.split(self._inbox.own(own)) if wire.OWN in own else None
                model = received.state if begun is None else received.state.merged(begun)
                job = self.job(client, self._personal(client, model, state), received.server_round)
                jobs.append(job._replace(start=begun))
        answers = Answers(summed=told.get(wire.REPLY) == wire.SUM, own_updates=bool(told.get(wire.OWN_UPDATES)))
        together = self.config.training.vectorize == "always"
        for group in [jobs] if together and jobs else [[job] for job in jobs]:
            replies |= self._train_group(received, group, answers)
        in_order = [replies[each.client] for each in sent]
        answers.carry_sum(in_order)
        return in_order

    def _train_group(self, received: Received, jobs: list[ClientJob], answers: Answers) -> dict[int, Reply]:
        try:
            trained = self.trainer.train(received.state, received.constants, jobs, received.server_round)
            lanes = [jobs[lane] for lane in trained.lanes]
            update = self._update(received, trained, lanes)
        except Exception as error:
            if len(jobs) == 1:
                return {jobs[0].client: failed(error)}
            alone = (self._train_group(received, [job], answers) for job in jobs)
            return {client: reply for one in alone for client, reply in one.items()}  # the other clients still count
        metrics = {name: np.array(value.tolist()) for name, value in trained.metrics.items()}
        metrics |= measured(trained.audits, self.data.dataset.y_train, self.device)
        examples = np.array([job.num_samples for job in lanes], np.float64)
        return answers.of([job.client for job in lanes], update, examples, metrics)

    def _update(self, received: Received, trained: TrainedLanes, lanes: list[ClientJob]) -> Update:
        clients = [job.client for job in lanes]
        spoil(self.config.faults, self.config.seed, received.server_round, clients, trained.state.params)
        sent: Tensors = {}
        kept = State({}, {})
        model = received.state.merged(lanes[0].start or State({}, {}))
        for part, like, own in zip(trained.state, model, kept, strict=True):
            for name, value in part.items():
                (sent if name in like else own)[name] = value
        weights = torch.tensor([job.num_samples for job in lanes], dtype=torch.float64)
        update = Update(sent, kept, weights, trained.steps, trained.samples, trained.drawn)
        update = self.client.finish(update, trained.extras)
        central = self.config.privacy.client
        if central is None or received.clip_norm is None:
            return update
        start = received.state.params | received.state.buffers
        return clipped_updates(update, start, received.clip_norm, adaptive=central.clipping == "adaptive")

    # Queries ------------------------------------------------------------------------------------------------------

    def _ask(self, query: Query, sent: ChunkMessage) -> Reply:
        try:
            received = self._inbox.broadcast(sent.content)
            personal = self._personal(sent.client, received.state, sent.state)
            rows = self.job(sent.client, personal, received.server_round).rows
            rows = rows_of(query, rows, self.config.seed, received.server_round, sent.client)
            state, own = received.state.merged(personal), self._inbox.own(sent.content)
            sums = answer(query, state, own, received.constants, self.train_set, rows)
        except Exception as error:
            return failed(error)
        metrics = MetricRecord({wire.NUM_EXAMPLES: len(rows)})
        return Reply(RecordDict({wire.ARRAYS: to_record(sums), wire.METRICS: metrics}))

    # Evaluation ---------------------------------------------------------------------------------------------------

    def model_of(self, sent: ChunkMessage, adapt_steps: int = 0) -> tuple[State, Tensors]:
        """Return the tensors with which a client predicts, after some local steps, and the constants it received."""
        received = self._inbox.broadcast(sent.content)
        own = self._inbox.split(self._inbox.own(sent.content))
        model = received.state.merged(own)
        personal = self._personal(sent.client, model, sent.state)
        if not adapt_steps:
            return model.merged(personal), received.constants
        job = self.job(sent.client, personal, received.server_round)
        job = job._replace(start=own if wire.OWN in sent.content else None)
        return adapted(
            self.trainer, self.client, received.state, received.constants, job, adapt_steps
        ), received.constants

    def measure(self, sent: ChunkMessage, model: State) -> RecordDict:
        """Return the score of a client with these tensors on its own test samples, or on its held-out samples."""
        received = self._inbox.broadcast(sent.content)
        scores = self._scores
        if wire.told_in(sent.content).get(wire.VALIDATION):
            assert self._held_out is not None  # only requested if there are held-out samples
            scores = self._held_out
        return scores.measure(sent.client, model, received.constants, received.server_round)

    def _evaluate(self, sent: Sequence[ChunkMessage]) -> list[Reply]:
        replies = []
        for each in sent:
            try:
                model, _ = self.model_of(each)
                replies.append(Reply(self.measure(each, model)))
            except Exception as error:
                replies.append(failed(error))
        return replies
