"""The round loop: sample a cohort, train it, aggregate, evaluate. It writes no files; `fedsim.runs.runner` does."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message

from fedsim.config.errors import shown
from fedsim.config.renamed import renamed
from fedsim.config.run import RunConfig
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.federation import FederatedData, federate
from fedsim.data.longtail import shot_groups
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcessEngine
from fedsim.engine.select import choose_engine, choose_vectorize
from fedsim.engine.states import ClientStates
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError, TooFewReplies
from fedsim.evaluation import Score, TestSet
from fedsim.federated.exchange import conduct
from fedsim.federated.registry import load_strategy
from fedsim.federated.sampling import draw_cohort
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.flower.wire import OWN_UPDATES
from fedsim.interrupts import uninterrupted
from fedsim.models.base import Classifier
from fedsim.models.build import has_batch_coupling
from fedsim.models.portable import Description
from fedsim.models.start import start_hash
from fedsim.paths import expanded
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import Checkpoint
from fedsim.runs.client_scores import ClientScore, noted, spread
from fedsim.runs.counted import Counted
from fedsim.runs.doubts import idle_clients, notes
from fedsim.runs.history import HistoryWriter
from fedsim.runs.privacy_setup import calibrated, central_privacy, inherited_ledger, new_ledger, require_possible
from fedsim.runs.progress import Progress, Quiet
from fedsim.runs.settle import require_fitting, require_trainable, settled
from fedsim.runs.staging import require_stageable, stage_metrics, works_between_rounds
from fedsim.training.first_model import first_model
from fedsim.training.precision import prepare

Metrics = dict[str, float]

_UNDO = "undo the change to its config.yaml, or start a new run"
_ASTRAY = 100.0  # times the loss of guessing
_LONG_TAIL = 2.0  # class sizes that differ by less make no "few" and "many"


@dataclass
class RunState:
    """What changes from round to round, and goes into a checkpoint."""

    tensors: Tensors
    """The global model."""
    server: tuple[Tensors, dict[str, Any]]
    """The server's `state_dict()`."""
    ledger: Ledger
    """What clients have shown."""
    round: int = 0
    """Rounds done."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    failures: int = 0
    """Client replies lost."""
    seconds: float = 0.0
    """Wall time spent in rounds."""
    scores: dict[str, Score] | None = None
    """Of every head in the newest evaluation; None before the first one in this process."""
    clients: list[ClientScore] | None = None
    """Of every client in the newest evaluation; None likewise."""
    clip_norm: float | None = None
    """The clipping norm of the next round, where client-level privacy has one."""
    folder: Path | None = None
    """Of the run, whose ledger knows of a round before anything of it is shown."""

    def release(self, server_round: int, cohort: Sequence[int]) -> None:
        """Enter a round into the ledger before its clients are asked; one run again to the same bits is there."""
        if not self.ledger.covers_round(server_round):
            self.ledger.add_round(cohort)
            if self.folder is not None:
                self.ledger.journal(self.folder, cohort)


class Simulation:
    """One run, prepared but not begun: whatever a bad configuration can break has been tried by then.

    It is run on `data` in place of what the configuration describes, where that is given; `self.data` is what the
    method makes of it.
    """

    def __init__(self, config: RunConfig, progress: Progress | None = None, data: FederatedData | None = None) -> None:
        self.progress = progress or Quiet()
        self.strategy = load_strategy(config.strategy.name)
        config = _with_start(config)
        dataset = load_dataset(config.data, config.seed) if data is None else data.dataset
        config, why_data = settled(config, dataset)
        config, why_engine = choose_engine(config)
        data = data or federate(config.data, config.clients, config.seed, dataset)
        require_stageable(config, self.strategy, data)
        self.data = data if self.strategy.prepare is None else self.strategy.prepare(config, data)
        dataset = self.data.dataset
        require_fitting(config, self.strategy, dataset)
        # What unseen clients have reaches the server in no way.
        unseen = [self.data.partition[client] for client in range(config.clients_seen, config.clients)]
        seen = self.data.without(np.concatenate(unseen)) if unseen else self.data
        self.sizes = sizes = seen.partition.sizes
        """Training samples of each client, none of those unseen."""
        config, why_noise = calibrated(config, sizes, lambda: self.strategy.client(config, self.new_model(config)))
        self.worker = Worker(config, self.data)
        model = prepare(self.new_model(config), config.training, self.worker.device)
        self.server = self.strategy.server(config, model, seen)
        require_trainable(config, self.worker.client, self.server.local_start())
        require_possible(config, model, self.server, self.worker.client)
        if config.history.keep != "none" and not self.server.one_wave:
            raise FedsimError(
                f"history.keep: clients of {self.strategy.name} are sent several messages in a round, and a history "
                "holds one reply; use none"
            )
        if config.history.keep != "none" and works_between_rounds(self.server):
            raise FedsimError(
                f"history.keep: the server of {self.strategy.name} works between rounds, unlike a history; use none"
            )
        config, why_chunks = choose_vectorize(config, self.worker, self.server.local_start(), self.server.constants())
        self.config = self.worker.config = config
        self.server.central = central_privacy(config, self.data)
        coupled = has_batch_coupling(model)
        doubts = notes(config, seen, self.strategy.client, self.server.remarks, coupled)
        self._idle = idle_clients(config, seen, coupled)
        self.inherited = inherited_ledger(config)
        self.choices = {**doubts, **why_data, "engine": why_engine, "vectorize": why_chunks, **why_noise}
        uneven = seen.class_counts.max() >= _LONG_TAIL * seen.class_counts.min()
        self.groups = shot_groups(seen.shot_counts(config.data.shots)) if uneven else {}
        self._tests = TestSet(dataset, self.worker.device, model.classifier.weight.dtype, config.eval_metrics)

    def new_model(self, config: RunConfig) -> Classifier:
        """Return the model that the run starts from."""
        return first_model(config, self.data.dataset)

    def engine(self) -> Engine:
        """Return the engine that the configuration names; the caller closes it."""
        chunk = self.config.training.chunk
        assert chunk is not None  # choose_vectorize has set it
        if self.config.engine.name == "ray":
            from fedsim.engine.ray import RayEngine

            return RayEngine(partial(Worker, self.config, self.data), self.config.clients, chunk, self.config.engine)
        states = ClientStates(self.config.engine.state_memory_mb << 20)
        return InProcessEngine(self.worker, self.config.clients, chunk, states)

    def begin(self) -> RunState:
        """Return the state before the first round."""
        ledger = new_ledger(self.config, self.sizes, self.worker.client)
        ledger = ledger if self.inherited is None else self.inherited.then(ledger)
        central = self.config.privacy.client
        clip_norm = None if central is None else central.clip_norm
        return RunState(self.server.initial(), self.server.state_dict(), ledger, clip_norm=clip_norm)

    def restore(self, checkpoint: Checkpoint, engine: Engine) -> RunState:
        """Return the state that a checkpoint holds, having given server and clients theirs.

        Raises
        ------
        FedsimError
            If it is of another recipe, or of a version that made other tensors of it.
        """
        recipe, recorded = self.config.recipe(), dict(renamed(*item) for item in checkpoint.recipe.items())
        for key in sorted(recipe.keys() | recorded.keys(), key=lambda key: (not key.endswith(".name"), key)):
            was, now = recorded.get(key), recipe.get(key)
            if was != now:
                raise FedsimError(f"{key}: its checkpoint was made with {shown(was)}, not {shown(now)}; {_UNDO}")
        shapes = {name: value.shape for name, value in self.server.initial().items()}
        fits = shapes == {name: value.shape for name, value in checkpoint.model.items()}
        try:
            if fits:
                self.server.load_state_dict(*checkpoint.server)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
            fits = False
        if not fits:
            raise FedsimError(
                f"its checkpoint is of another version of {self.config.strategy.name} or {self.config.model.name}; "
                "start a new run"
            )
        engine.states.adopt(checkpoint.clients.files(), checkpoint.clients.digests())
        engine.trained |= set(checkpoint.trained)
        model = {name: value.to(self.worker.device) for name, value in checkpoint.model.items()}
        seconds = float(checkpoint.metrics[-1]["time_s"]) if checkpoint.metrics else 0.0
        released = checkpoint.round if checkpoint.released is None else checkpoint.released
        told = {"rounds": released, "took_part": list(checkpoint.took_part)}
        ledger = self.begin().ledger.model_copy(update=told)
        return RunState(
            model, checkpoint.server, ledger, checkpoint.round, checkpoint.metrics, checkpoint.failures, seconds,
            clip_norm=checkpoint.clip_norm,
        )  # fmt: skip

    def checkpoint(self, state: RunState, engine: Engine) -> Checkpoint:
        """Return all that is needed to go on after `state.round`."""
        return Checkpoint(
            state.round, state.tensors, state.server, engine.states, sorted(engine.trained),
            state.metrics, state.failures, self.config.recipe(), state.ledger.took_part, state.clip_norm,
            state.ledger.rounds,
        )  # fmt: skip

    def step(self, state: RunState, engine: Engine, history: HistoryWriter | None = None) -> Metrics:
        """Run one round, writing to `state`, and to `history`, once it is whole; returns its metrics.

        Raises
        ------
        TooFewReplies
            If too many clients failed; but for its ledger, `state` is as it was.
        """
        config, server_round = self.config, state.round + 1
        begun = time.perf_counter()
        central = self.server.central
        if central is not None and state.clip_norm is not None:
            central.clip_norm = state.clip_norm
        secrets = None if central is None else central.secrets
        engine.cohort = drawn = draw_cohort(config, self.data.at(server_round).sizes, server_round, secrets)
        state.release(server_round, drawn)
        message = ConfigRecord()
        if history is not None:
            model = self.server.split(state.tensors)
            message[OWN_UPDATES] = history.begin(server_round, engine.cohort, model, state.server)
        replies = Counted(self.progress, history)
        start = self.server.prepare_round(server_round, state.tensors, self.progress.working)
        asked = time.perf_counter()
        exchange = self.server.exchange(server_round, to_record(start), message, engine)
        aggregated, measured = conduct(exchange, lambda wave: replies.of(engine.stream(_by_cohort(wave, engine))))
        # A Poisson cohort may be small, or empty, without anybody having failed.
        needed = config.min_replies if central is None else min(config.min_replies, len(drawn))
        if not replies.heard:
            needed = 0  # a server that has no question in this round
        if replies.good < needed or aggregated is None:
            first = f"; the first failure: {next(iter(replies.failures))}" if replies.failures else ""
            raise TooFewReplies(
                f"round {server_round}: {replies.good} good replies of {len(drawn)}, "
                f"but min_replies is {config.min_replies}{first}"
            )
        tensors = to_tensors(aggregated, self.worker.device)
        metrics = {f"train/{name}": value for name, value in scalars(measured or {}).items()}
        metrics["train/clients_per_s"] = len(drawn) / (time.perf_counter() - asked)
        if works_between_rounds(self.server):
            metrics["server/seconds"] = asked - begun
        if idle := sum(map(self._idle.__getitem__, drawn)):
            metrics["train/idle_clients"] = float(idle)
        if replies.failed:
            metrics["train/failures"] = float(replies.failed)
        scores, clients = state.scores, state.clients
        if central is not None:
            metrics["privacy/next_clip_norm"] = central.clip_norm
        stages, extra = self.data.stages, dict[str, Any]()
        stage_ends = stages is not None and stages.ends(server_round)
        if server_round % config.eval_every == 0 or server_round == config.rounds or stage_ends:
            scores = self.scores(tensors, server_round)
            of_clients, clients = self.evaluate_clients(server_round, tensors, engine)
            metrics |= self._global_metrics(scores) | of_clients
            if stages is not None and scores:
                of_stages, extra = stage_metrics(stages, state.metrics, server_round, next(iter(scores.values())))
                metrics |= of_stages
        with uninterrupted():  # the round counts as a whole or not at all
            if history is not None:
                history.commit()
            engine.states.commit()
            state.tensors, state.server, state.round = tensors, self.server.state_dict(), server_round
            state.scores, state.clients = scores, clients
            state.clip_norm = None if central is None else central.clip_norm
            state.failures += replies.failed
            state.seconds += time.perf_counter() - begun
            line = {"round": server_round, "time_s": round(state.seconds, 4)}
            lost = {"failures": replies.failures} if replies.failures else {}
            measures = {name: value if np.isfinite(value) else None for name, value in metrics.items()}
            state.metrics.append({**line, "metrics": measures, **extra, **lost})
        self._report(state, metrics, engine)
        return metrics

    def divergence(self, metrics: Mapping[str, float | None]) -> str | None:
        """Return what shows that training has gone astray in a round of these metrics; None if nothing does.

        Guessing costs ln C nats on C classes, and 1 on numbers, which are learned in units of their deviation.
        """
        dataset = self.data.dataset
        guessing = 1.0 if dataset.is_regression else math.log(max(dataset.num_classes, 2))
        for name in ("train/loss", "global/loss"):
            value = metrics.get(name, 0.0)
            if value is None or not value <= _ASTRAY * guessing:  # a line of metrics.jsonl has null for NaN
                return f"{name} is {'not a number' if value is None else f'{value:.3g}'}"
        return None

    def _report(self, state: RunState, metrics: Metrics, engine: Engine) -> None:
        shown = {"accuracy": "global/accuracy", "clients_per_second": "train/clients_per_s"}
        numbers = {name: metrics[metric] for name, metric in shown.items() if metric in metrics}
        engine.report({"round": state.round, "failures": state.failures, **numbers})

    def scores(self, tensors: Tensors, server_round: int | None = None) -> dict[str, Score]:
        """Return how every global head does on the test samples of all classes, or of those there by a round."""
        current, seen = self.server.split(tensors), None if server_round is None else self.data.seen(server_round)
        return self._tests.score(lambda x: self.server.heads(current, x), seen)

    def _global_metrics(self, scores: dict[str, Score]) -> Metrics:
        out: Metrics = {}
        for number, (head, score) in enumerate(scores.items()):
            out |= score.metrics("global" if number == 0 else f"global_{head}", self.groups)
        return out

    def evaluate_clients(
        self, server_round: int, tensors: Tensors, engine: Engine
    ) -> tuple[Metrics, list[ClientScore]]:
        """Return how clients do on their own test samples: in the mean, as far as they differ, and each of them."""
        which, first_unseen = self.config.eval_clients, self.config.clients_seen
        if which == "auto":
            which = "all" if self.strategy.client.personalised else "none"
        able = np.flatnonzero(self.data.partition.sizes).tolist()
        seen = [client for client in able if client < first_unseen]
        if which == "seen":
            seen = [client for client in seen if client in engine.trained]
        groups = {"clients": [] if which == "none" else seen, "unseen": [c for c in able if c >= first_unseen]}
        metrics: Metrics = {}
        every: list[ClientScore] = []
        for group, cohort in groups.items():
            scores: list[ClientScore] = []
            if cohort:
                measured = self.evaluate(server_round, tensors, engine, cohort, scores)
                for name, value in {**measured, **spread(scores)}.items():
                    head, colon, metric = name.rpartition(":")
                    metrics[f"{group}_{head}/{metric}" if colon else f"{group}/{name}"] = value
            every += scores
        return metrics, every

    def evaluate(
        self, server_round: int, tensors: Tensors, engine: Engine, cohort: Sequence[int], scores: list[ClientScore]
    ) -> Metrics:
        """Return the means over some clients of what they measure, having added that of each to `scores`."""
        engine.cohort, trained = cohort, set(engine.trained)
        unseen = cohort[0] >= self.config.clients_seen
        exchange = self.server.exchange_evaluate(server_round, to_record(tensors), ConfigRecord(), engine)
        measured = conduct(exchange, lambda wave: noted(engine.stream(wave), scores, unseen=unseen))
        engine.trained = trained  # what a method has clients do to be evaluated is no part of the run
        return scalars(measured or {})


def _with_start(config: RunConfig) -> RunConfig:
    """Return the configuration with the hash of the weights that the run starts from, and their absolute path."""
    if config.start is None:
        return config
    path = expanded(config.start).resolve()
    found = start_hash(path)
    if config.start_sha256 not in (None, found):
        raise FedsimError(f"start: {path} is not what this run began with (its hash differs); restore it")
    return config.model_copy(update={"start": path, "start_sha256": found})


def described(config: RunConfig, dataset: Dataset) -> Description:
    """Return what the models of a run are, for those who have no data."""
    recipe = hashlib.sha256(json.dumps(config.recipe(), sort_keys=True).encode()).hexdigest()
    return Description(
        model=config.model, input_shape=dataset.input_shape, outputs=dataset.num_classes,
        predicts="numbers" if dataset.is_regression else "classes", mean=dataset.mean, std=dataset.std,
        class_names=dataset.class_names, double=config.training.precision == "float64",
        source={"run": config.name, "recipe_sha256": recipe},
    )  # fmt: skip


def _by_cohort(messages: Iterable[Message], engine: Engine) -> list[Message]:
    """Return messages in the cohort's order: Flower's own strategies shuffle their nodes."""
    order = {node: position for position, node in enumerate(engine.get_node_ids())}
    return sorted(messages, key=lambda message: order[message.metadata.dst_node_id])
