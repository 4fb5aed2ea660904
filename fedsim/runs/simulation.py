"""The round loop: sample a cohort, train it, aggregate, evaluate. It writes no files; `fedsim.runs.runner` does."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message

from fedsim.config.errors import shown
from fedsim.config.renamed import renamed
from fedsim.config.run import RunConfig, flatten
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.federation import FederatedData, federate
from fedsim.data.longtail import shot_groups
from fedsim.engine.base import Engine
from fedsim.engine.registry import load_engine
from fedsim.engine.select import choose_engine, choose_vectorize
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError, TooFewReplies
from fedsim.evaluation import Score, TestSet, head_metrics
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
from fedsim.own_metrics import load_own_metrics
from fedsim.paths import expanded
from fedsim.runs.checkpoint import Checkpoint
from fedsim.runs.client_scores import ClientScore, evaluated, noted, spread
from fedsim.runs.counted import Counted
from fedsim.runs.doubts import idle_clients, notes
from fedsim.runs.observers import Beginning, RoundObserver, Shown
from fedsim.runs.privacy_setup import calibrated, central_privacy, inherited_ledger, new_ledger, require_possible
from fedsim.runs.progress import Progress, QuietProgress
from fedsim.runs.settle import require_fitting, require_trainable, settled
from fedsim.runs.staging import require_keepable, require_stageable, stage_metrics, works_between_rounds
from fedsim.runs.state import Metrics, RunState
from fedsim.runs.validation import HeldOut
from fedsim.training.first_model import first_model
from fedsim.training.precision import to_run_format

_UNDO = "undo the change to its config.yaml, or start a new run"
_LONG_TAIL = 2.0  # class sizes that differ by less make no "few" and "many"


class Simulation:
    """One run, prepared but not started: by then, errors of the configuration have been raised.

    If `data` is given, it replaces the data that the configuration describes; `self.data` is the result of the
    method's preparation.
    """

    def __init__(self, config: RunConfig, progress: Progress | None = None, data: FederatedData | None = None) -> None:
        self.progress = progress or QuietProgress()
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
        # The server never sees the data of unseen clients.
        seen = self.data.of_first(config.clients_seen)
        self.sizes = sizes = seen.partition.sizes
        """Number of training samples of each client; 0 for unseen clients."""
        config, why_noise = calibrated(config, sizes, lambda: self.strategy.client(config, self.new_model(config)))
        self.worker = Worker(config, self.data)
        model = to_run_format(self.new_model(config), config.training, self.worker.device)
        self.server = self.strategy.server(config, model, seen)
        require_trainable(config, self.worker.client, self.server.local_start(), self.data.dataset)
        require_possible(config, model, self.server, self.worker.client)
        require_keepable(config, self.server)
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
        dtype = model.classifier.weight.dtype
        self.own_metrics = load_own_metrics(config.metrics)
        self._tests = TestSet(dataset, self.worker.device, dtype, config.eval_metrics, self.own_metrics)
        personalised = self.strategy.client.personalised
        self._held_out = HeldOut(config, self.data, self.worker.device, dtype, personalised=personalised)

    def new_model(self, config: RunConfig) -> Classifier:
        """Return the model that the run starts from."""
        return first_model(config, self.data.dataset)

    def engine(self) -> Engine:
        """Return the engine that the configuration names; the caller closes it."""
        chunk = self.config.training.chunk
        assert chunk is not None  # choose_vectorize has set it
        return load_engine(self.config.engine.name)(self.worker, self.config, chunk)

    def begin(self) -> RunState:
        """Return the state before the first round."""
        ledger = new_ledger(self.config, self.sizes, self.worker.client)
        ledger = ledger if self.inherited is None else self.inherited.then(ledger)
        central = self.config.privacy.client
        clip_norm = None if central is None else central.clip_norm
        return RunState(self.server.initial(), self.server.state_dict(), ledger, clip_norm=clip_norm)

    def restore(self, checkpoint: Checkpoint, engine: Engine) -> RunState:
        """Return the state in a checkpoint, after loading the states of server and clients.

        Raises
        ------
        FedsimError
            If the checkpoint belongs to another recipe, or to a version whose tensors differ.
        """
        _require_recipe(self.config, checkpoint.recipe)
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
        """Return a checkpoint from which the run can continue after `state.round`."""
        return Checkpoint(
            state.round, state.tensors, state.server, engine.states, sorted(engine.trained),
            state.metrics, state.failures, self.config.recipe(), state.ledger.took_part, state.clip_norm,
            state.ledger.rounds,
        )  # fmt: skip

    def step(self, state: RunState, engine: Engine, observers: Sequence[RoundObserver] = ()) -> Metrics:
        """Run one round and return its metrics. `state` changes when the round is complete; `observers` are notified.

        Raises
        ------
        TooFewReplies
            If too many clients failed; `state` is then unchanged except for its ledger.
        """
        begun, server_round = time.perf_counter(), state.round + 1
        told = [*observers, Shown(self.progress)]
        replies = Counted(told)
        message = self._begin_round(server_round, state, engine, told)
        tensors, metrics = self._train(server_round, state, engine, message, replies)
        scores, clients, extra = state.scores, state.clients, dict[str, Any]()
        if self._evaluates(server_round):
            scores, clients, measured, extra = self._evaluated(server_round, state, tensors, engine)
            metrics |= measured
        with uninterrupted():  # the round is stored completely or not at all
            for observer in told:
                observer.round_whole()
            engine.states.commit()
            state.tensors, state.server, state.round = tensors, self.server.state_dict(), server_round
            state.scores, state.clients = scores, clients
            state.clip_norm = None if self.server.central is None else self.server.central.clip_norm
            state.failures += replies.failed
            state.seconds += time.perf_counter() - begun
            line = {"round": server_round, "time_s": round(state.seconds, 4), **replies.traffic.counts}
            lost = {"failures": replies.failures} if replies.failures else {}
            measures = {name: value if np.isfinite(value) else None for name, value in metrics.items()}
            state.metrics.append({**line, "metrics": measures, **extra, **lost})
        for observer in told:
            observer.round_done(state, metrics)
        return metrics

    def _begin_round(
        self, server_round: int, state: RunState, engine: Engine, observers: Sequence[RoundObserver]
    ) -> ConfigRecord:
        """Draw the cohort and record it in the ledger; return the config that all messages of the round contain."""
        central = self.server.central
        if central is not None and state.clip_norm is not None:
            central.clip_norm = state.clip_norm
        secrets = None if central is None else central.secrets
        cohort = draw_cohort(self.config, self.data.at(server_round).sizes, server_round, secrets)
        engine.cohort = cohort
        new = state.release(server_round, cohort)
        beginning = Beginning(server_round, cohort, self.server.split(state.tensors), state, new)
        wanted = [observer.round_begins(beginning) for observer in observers]
        return ConfigRecord({OWN_UPDATES: True} if any(wanted) else {})

    def _train(
        self, server_round: int, state: RunState, engine: Engine, message: ConfigRecord, replies: Counted
    ) -> tuple[Tensors, Metrics]:
        """Return the next global model, and the metrics of clients and server during training."""
        begun, drawn, central = time.perf_counter(), list(engine.cohort or ()), self.server.central
        start = self.server.prepare_round(server_round, state.tensors, self.progress.working)
        asked = time.perf_counter()
        exchange = self.server.exchange(server_round, to_record(start), message, engine)
        aggregated, measured = conduct(exchange, lambda wave: replies.of(wave, engine.stream(_by_cohort(wave, engine))))
        # A Poisson cohort may be small or empty although no client has failed.
        needed = self.config.min_replies if central is None else min(self.config.min_replies, len(drawn))
        if not replies.heard:
            needed = 0  # a server that sends no message in this round
        if replies.good < needed or aggregated is None:
            first = f"; the first failure: {next(iter(replies.failures))}" if replies.failures else ""
            raise TooFewReplies(
                f"round {server_round}: {replies.good} good replies of {len(drawn)}, "
                f"but min_replies is {self.config.min_replies}{first}"
            )
        metrics = {f"train/{name}": value for name, value in scalars(measured or {}).items()}
        metrics["train/clients_per_s"] = len(drawn) / (time.perf_counter() - asked)
        if works_between_rounds(self.server):
            metrics["server/seconds"] = asked - begun
        if idle := sum(map(self._idle.__getitem__, drawn)):
            metrics["train/idle_clients"] = float(idle)
        if replies.failed:
            metrics["train/failures"] = float(replies.failed)
        if central is not None:
            metrics["privacy/next_clip_norm"] = central.clip_norm
        return to_tensors(aggregated, self.worker.device), metrics

    def _evaluates(self, server_round: int) -> bool:
        stages = self.data.stages
        last = server_round == self.config.rounds or (stages is not None and stages.ends(server_round))
        return last or server_round % self.config.eval_every == 0

    def _evaluated(
        self, server_round: int, state: RunState, tensors: Tensors, engine: Engine
    ) -> tuple[dict[str, Score], list[ClientScore], Metrics, dict[str, Any]]:
        """Return the scores of heads and clients, the metrics from them, and further entries for metrics.jsonl."""
        scores, stages, extra = self.scores(tensors, server_round), self.data.stages, dict[str, Any]()
        of_clients, clients = self.evaluate_clients(server_round, tensors, engine)
        metrics = head_metrics("global", scores, self.groups) | of_clients
        metrics |= self._held_out.measure(
            partial(self.server.heads, self.server.split(tensors)), self.data.seen(server_round),
            lambda clients, told: self.evaluate(server_round, tensors, engine, clients, [], told),
        )  # fmt: skip
        if stages is not None and scores:
            of_stages, extra = stage_metrics(stages, state.metrics, server_round, next(iter(scores.values())))
            metrics |= of_stages
        return scores, clients, metrics, extra

    def scores(self, tensors: Tensors, server_round: int | None = None) -> dict[str, Score]:
        """Return the test scores of every global head, on all classes or on those that have arrived by a round."""
        current, seen = self.server.split(tensors), None if server_round is None else self.data.seen(server_round)
        return self._tests.score(lambda x: self.server.heads(current, x), seen)

    def evaluate_clients(
        self, server_round: int, tensors: Tensors, engine: Engine
    ) -> tuple[Metrics, list[ClientScore]]:
        """Return the clients' scores on their own test samples: means, spread, and each client's."""
        sizes, personalised = self.data.partition.sizes, self.strategy.client.personalised
        groups = evaluated(self.config, sizes, engine.trained, personalised=personalised)
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
        self, server_round: int, tensors: Tensors, engine: Engine, cohort: Sequence[int], scores: list[ClientScore],
        message: ConfigRecord | None = None,
    ) -> Metrics:  # fmt: skip
        """Return the mean metrics of some clients, and add each client's metrics to `scores`.

        `message` is the config that they receive besides the model.
        """
        engine.cohort, trained = cohort, set(engine.trained)
        unseen = cohort[0] >= self.config.clients_seen
        exchange = self.server.exchange_evaluate(server_round, to_record(tensors), message or ConfigRecord(), engine)
        measured = conduct(exchange, lambda wave: noted(engine.stream(wave), scores, unseen=unseen))
        engine.trained = trained  # the evaluation of a method must not change the run
        return scalars(measured or {})


def _require_recipe(config: RunConfig, recorded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another recipe; the error names the first different key, names of parts before options.

    A missing key has its default value: an older or newer version did not have the option.
    """
    method = type(config.strategy)(name=config.strategy.name)
    default = dict(flatten(RunConfig(strategy=method).model_dump(mode="json")))
    was = default | dict(renamed(*item) for item in recorded.items())
    recipe = config.recipe()
    now = default | recipe
    for key in sorted(recipe.keys() | recorded.keys(), key=lambda key: (not key.endswith(".name"), key)):
        if was.get(key) != now.get(key):
            then, here = shown(was.get(key)), shown(now.get(key))
            raise FedsimError(f"{key}: its checkpoint was made with {then}, not {here}; {_UNDO}")


def _with_start(config: RunConfig) -> RunConfig:
    """Return the configuration with the absolute path and the hash of the weights that the run starts from."""
    if config.start is None:
        return config
    path = expanded(config.start).resolve()
    found = start_hash(path)
    if config.start_sha256 not in (None, found):
        raise FedsimError(f"start: {path} is not what this run began with (its hash differs); restore it")
    return config.model_copy(update={"start": path, "start_sha256": found})


def described(config: RunConfig, dataset: Dataset) -> Description:
    """Return the description of a run's models, which is stored with the model so that it can be used without data."""
    recipe = hashlib.sha256(json.dumps(config.recipe(), sort_keys=True).encode()).hexdigest()
    mean, std = dataset.input_scale or (dataset.mean, dataset.std)
    return Description(
        model=config.model, input_shape=dataset.input_shape, outputs=dataset.num_classes,
        predicts=dataset.targets, text=dataset.is_text, mean=mean, std=std,
        class_names=dataset.class_names, input_names=dataset.input_names, target_scale=dataset.target_scale,
        double=config.training.precision == "float64",
        source={"run": config.name, "recipe_sha256": recipe},
    )  # fmt: skip


def _by_cohort(messages: Iterable[Message], engine: Engine) -> list[Message]:
    """Return messages in the cohort's order: Flower's own strategies shuffle their nodes."""
    order = {node: position for position, node in enumerate(engine.get_node_ids())}
    return sorted(messages, key=lambda message: order[message.metadata.dst_node_id])
