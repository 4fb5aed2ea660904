"""The interface of a federated unlearning method: the staying clients, and the kept history of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from fedsim.config.run import HistoryConfig, RunConfig
from fedsim.config.schedule import Constant
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError, RunFailed
from fedsim.federated.server import Server
from fedsim.flower.internals import node_of, reply_to
from fedsim.flower.records import Tensors, to_record, to_tensors
from fedsim.flower.wire import ARRAYS, METRICS, TRAIN
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import load_latest, load_model
from fedsim.runs.history import KeptRound, Participation, SentModel, open_history
from fedsim.runs.progress import Progress, shown
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState
from fedsim.training.first_model import build_run_model
from unlearning.api.local import LocalWork
from unlearning.api.needs import Needs
from unlearning.api.replay_record import ReplayRecord
from unlearning.api.staying import Staying


class Round:
    """A kept round, limited to what the method may see."""

    def __init__(self, kept: KeptRound, federation: Federation) -> None:
        self._kept, self._federation = kept, federation
        self.number = kept.number
        self.clients: Mapping[int, Participation] = kept.clients
        """The clients that answered, including those to forget, in the server's order."""

    @property
    def staying(self) -> list[int]:
        """The clients of the round that are not to be forgotten."""
        return [client for client in self.clients if client not in self._federation.forgotten]

    @property
    def untouched(self) -> list[int]:
        """The clients of the round that keep all their samples; their updates contain nothing of the forgotten ones."""
        return [client for client in self.staying if client not in self._federation.touched]

    def model(self) -> Tensors:
        """Return θ^t, the global tensors as they were sent."""
        return self._federation.read(self._kept)[0]

    def sent(self, client: int) -> SentModel:
        """Return the tensors that a client sent: θ_k, for a client that trains the global model."""
        return self._federation.read_sent(self._kept, client)


class Federation:
    """The staying clients, which can train by the run's recipe with its own draws, and the run's history.

    It only gives access to what the method declared to need, and counts the costs.

    Parameters
    ----------
    config
        The run's configuration; its seed gives the draws.
    data, left
        The run's data, and the data without that of the clients to forget.
    run
        The folder of the run, or of another run of the recipe.
    needs
        The declaration of the method.
    record
        A new folder for the history of a replay; by default it is not stored.
    """

    def __init__(
        self,
        config: RunConfig,
        data: FederatedData,
        left: FederatedData,
        run: Path,
        needs: Needs,
        progress: Progress | None = None,
        record: Path | None = None,
    ) -> None:
        self.config = config.model_copy(
            update={"history": HistoryConfig(), "eval_every": config.rounds, "eval_clients": "none"}
        )
        self.left, self.needs = left, needs
        self.forgotten = emptied(data, left)
        """The clients to forget: they have no samples left."""
        self.touched = frozenset(np.flatnonzero(data.partition.sizes > left.partition.sizes).tolist()) - self.forgotten
        """The clients that stay with fewer samples."""
        self._run = run
        self._progress = progress
        self._simulation = Simulation(self.config, progress, left)
        self.device = self._simulation.worker.device
        self._client = self._simulation.worker.client
        self._local = LocalWork(config, data, left, self.device)
        self._history = open_history(run, config.rounds) if needs.history or needs.updates else []
        self._staying = Staying(self.config, self._simulation, left, progress)
        self._spent: list[Ledger] = []
        self._record = None
        if record is not None and config.history.keep != "none" and len(self._history) == config.rounds:
            self._record = ReplayRecord(record, config.history, self._history, self.forgotten, self._client.moved)

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *error: object) -> None:
        self._staying.close()

    # The history --------------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> list[Round]:
        """The kept rounds, from the first."""
        self._require("history")
        return [Round(kept, self) for kept in self._history if kept.is_kept]

    def first_round(self) -> int:
        """Return t*, the first round that drew a client with samples to forget; without any, a round after the last.

        The models of rounds up to t*, as they were sent, contain nothing of these samples.
        """
        self._require("history")
        concerned = self.forgotten | self.touched
        drawn = (kept.number for kept in self._history if concerned.intersection(kept.cohort))
        return next(drawn, self.config.rounds + 1)

    def read(self, kept: KeptRound) -> tuple[Tensors, tuple[Tensors, dict[str, Any]]]:
        """Return the model and the server's state of a kept round."""
        self._require("history")
        model, server = kept.model()
        return {name: value.to(self.device) for name, value in model.items()}, server

    def read_sent(self, kept: KeptRound, client: int) -> SentModel:
        """Return the tensors that a client sent in a kept round."""
        self._require("updates")
        sent = kept.sent(client)
        return sent._replace(tensors={n: v.to(self.device) for n, v in sent.tensors.items()})

    def final(self) -> Tensors:
        """Return θ^T, the global tensors at the end of the run or of the previous request.

        Raises
        ------
        FedsimError
            If they were removed and cannot be reconstructed.
        """
        tensors = _final(self._run, self.config.rounds, self._simulation.server)
        if tensors is None:
            raise FedsimError(f"{self._run}: its last checkpoint is missing, and its model is not enough; run it anew")
        return {name: value.to(self.device) for name, value in tensors.items()}

    @property
    def local(self) -> LocalWork:
        """The clients with their samples, for the method's own work."""
        self._require("local")
        return self._local

    # The clients --------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """Local epochs of the run's recipe; 1 if the recipe counts steps."""
        return self.config.training.epochs if self.config.training.steps is None else 1

    def train(
        self, model: Tensors, server_round: int, clients: Sequence[int], share: float = 1.0
    ) -> Iterator[tuple[int, SentModel]]:
        """Yield what each client sends after training from `model`, in order; clients that fail are left out.

        A client draws its batches as in that round of the run. `share` limits the training to the first part of its
        epochs, or of its steps if the recipe counts those, and to at least one.
        """
        self._require("clients")
        self._require_one_wave()
        if self.config.privacy.client is not None:
            raise FedsimError(
                f"{self._run}: privacy.client protects the mean of clients' updates, and this method asks for single "
                "ones; choose another"
            )
        yield from self._staying.train(model, server_round, clients, share)

    def aggregate(self, model: Tensors, server_round: int, sent: Iterable[tuple[int, SentModel]]) -> Tensors:
        """Return the run's aggregation of these clients' tensors, for a round that began with `model`.

        Raises
        ------
        RunFailed
            If no client sends anything.
        """
        self._require_one_wave()
        server, record = self._simulation.server, self._record
        if record is not None:
            cohort = self._history[server_round - 1].cohort
            record.begin(server_round, cohort, server.split(model), server.state_dict())
        self._staying.announce(model, server_round)

        def replies() -> Iterator[Message]:
            for client, (tensors, metrics) in sent:
                if record is not None:
                    record.add(client, SentModel(tensors, metrics))
                asked = Message(RecordDict(), node_of(client), TRAIN, group_id=str(server_round))
                content = RecordDict({ARRAYS: to_record(tensors), METRICS: MetricRecord(dict(metrics))})
                yield reply_to(asked, content)

        aggregated, _ = server.aggregate_train(server_round, replies())
        if aggregated is None:
            raise RunFailed(f"round {server_round}: no staying client has answered, so the replay cannot continue")
        if record is not None:
            record.commit()
        return to_tensors(aggregated, self.device)

    @property
    def sends_models(self) -> bool:
        """Whether a client without training sends the global model that it received."""
        return self._client.sends == "model"

    def update(self, sent: SentModel, model: Tensors) -> Tensors:
        """Return U_k = θ_k − θ for the parameters of `model`."""
        return self._client.moved(sent.tensors, self._simulation.server.split(model).params)

    def moved(self, sent: SentModel, model: Tensors, update: Tensors) -> SentModel:
        """Return what a client sent, with θ + U in place of its parameters; buffers and other tensors stay."""
        return sent._replace(tensors=self._client.having_moved(sent.tensors, model, update))

    def replay(self, begin: Round) -> Tensors:
        """Return the final model of a replay of the recipe, from this round on, without the clients to forget.

        If clients keep their own state, the replay starts at round 1, because the history does not contain these
        states.
        """
        worker, server = self._simulation.worker, self._simulation.server
        someone = int(np.argmax(self.left.partition.sizes))
        kept = self._history[begin.number - 1]
        if any(worker.client.personal(someone, server.split(server.initial()))):
            kept = self._history[0]
        model, state = self.read(kept)
        server.load_state_dict(*state)
        begun = replace(self._simulation.begin(), tensors=model, server=state, round=kept.number - 1)
        if self._record is not None:
            self._record.copy_before(kept.number)
        return self._run_rounds(begun, self._simulation, self._record)

    def go_on(self, model: Tensors, rounds: int) -> Tensors:
        """Return a model after further rounds of the recipe, without the clients to forget.

        Learning rates are those of the recipe without schedules, which have ended, some of them at 0.
        """
        simulation = Simulation(_longer(self.config, rounds), self._progress, self.left)
        begun = replace(simulation.begin(), tensors=model, round=self.config.rounds)
        return self._run_rounds(begun, simulation)

    def _run_rounds(self, state: RunState, simulation: Simulation, record: ReplayRecord | None = None) -> Tensors:
        self._require("clients")
        self._spent.append(state.ledger)  # the ledger starts empty and counts these rounds
        at = shown(simulation.progress, simulation.config, state.round)
        with contextlib.closing(simulation.engine()) as engine, at:
            while state.round < simulation.config.rounds:
                simulation.step(state, engine, [] if record is None else [record.writer])
                self._staying.rounds += 1
                self._staying.woken += len(engine.cohort or ())
            if record is not None:
                record.replayed()
                simulation.checkpoint(state, engine).save(record.folder)
        return state.tensors

    def complete_record(self, tensors: Tensors) -> None:
        """Complete the history of a replay that ended with these global tensors."""
        if self._record is not None:
            server = self._simulation.server
            self._record.complete(server.split(tensors), server.state_dict())

    # The model ----------------------------------------------------------------------------------------------------

    def model(self, tensors: Tensors) -> Classifier:
        """Return the plain model that predicts as the run's server does with these global tensors."""
        model = build_run_model(self.config, self._simulation.data.dataset)
        model.load_state_dict(self._simulation.server.export(tensors))
        return model.to(self.device)

    def spent(self) -> tuple[Ledger, ...]:
        """Return the ledgers of what clients released during unlearning."""
        shown = (*self._spent, *self._staying.ledgers, *self._local.ledgers())
        return tuple(ledger for ledger in shown if ledger.rounds)

    def costs(self) -> dict[str, float]:
        """Return the numbers of training rounds and of client trainings, and the MB of traffic and of history read."""
        read, own = sum(kept.bytes_read for kept in self._history), self._local.costs()
        return own | {
            "rounds": self._staying.rounds + own["rounds"],
            "clients_woken": self._staying.woken + own["clients_woken"],
            "traffic_mb": 2 * self._staying.woken * size_mb(self._simulation.server.initial()) + own["traffic_mb"],
            "history_mb": read / 1e6,
        }

    def _require(self, need: str) -> None:
        if not getattr(self.needs, need):
            raise TypeError(f"a method that uses {need} must declare so: Needs({need}=True)")

    def _require_one_wave(self) -> None:
        if not self._simulation.server.one_wave:
            name = self.config.strategy.name
            raise FedsimError(f"a client of {name} is sent more than one message in a round; use --method retrain")


def size_mb(tensors: Tensors) -> float:
    """Return the size of tensors in MB: the traffic to a client, and about the traffic back."""
    return sum(value.nbytes for value in tensors.values()) / 1e6


def global_tensors(server: Server, exported: Tensors) -> Tensors | None:
    """Return the global tensors that a server exported as this model; None if the model does not determine them."""
    names = list(server.initial())
    if not set(names) <= exported.keys():
        return None
    tensors = {name: exported[name] for name in names}
    return tensors if server.export(tensors).keys() == exported.keys() else None


def _final(run: Path, rounds: int, server: Server) -> Tensors | None:
    """Return the global tensors after the last round.

    None if they are missing and the model does not determine them.
    """
    checkpoint = load_latest(run)
    if checkpoint is not None and checkpoint.round == rounds:
        return checkpoint.model
    return global_tensors(server, load_model(run / "model.safetensors"))


def emptied(data: FederatedData, left: FederatedData) -> frozenset[int]:
    """Return the clients that had data and have none left."""
    return frozenset(np.flatnonzero((data.partition.sizes > 0) & (left.partition.sizes == 0)).tolist())


def _longer(config: RunConfig, rounds: int) -> RunConfig:
    total = config.rounds + rounds
    constant = {
        name: part.model_copy(update={"schedule": Constant()})
        for name, part in (("training", config.training), ("server", config.server))
    }
    return config.model_copy(update={"rounds": total, "eval_every": total, **constant})
