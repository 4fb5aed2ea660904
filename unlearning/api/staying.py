"""Train the staying clients for a federated method: one wave at a time, from any model, for any share of epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from flwr.app import ConfigRecord, Message

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.engine.base import Engine
from fedsim.flower.internals import client_of
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.flower.wire import ARRAYS, METRICS, OWN_UPDATES, own_update
from fedsim.privacy.ledger import Ledger
from fedsim.runs.history import SentModel
from fedsim.runs.progress import Progress
from fedsim.runs.simulation import Simulation


class Staying:
    """Trains clients by the recipe of a simulation, with its draws, and counts the trainings.

    Parameters
    ----------
    config, simulation
        Configuration and simulation of the run, on the remaining data.
    left
        The remaining data.
    progress
        Passed to simulations of shorter training.
    """

    def __init__(
        self, config: RunConfig, simulation: Simulation, left: FederatedData, progress: Progress | None
    ) -> None:
        self._config, self._simulation, self._left, self._progress = config, simulation, left, progress
        self._engines: dict[float, Engine] = {}
        self._ledgers: dict[float, Ledger] = {}
        self._open = contextlib.ExitStack()
        self.rounds = self.woken = 0

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """The ledgers of the clients' releases."""
        return tuple(self._ledgers.values())

    def close(self) -> None:
        """Close the engines."""
        self._open.close()

    def train(
        self, model: Tensors, server_round: int, clients: Sequence[int], share: float
    ) -> Iterator[tuple[int, SentModel]]:
        """Yield what each client sends after training from `model`, in order; clients that fail are left out."""
        engine = self._engine(share)
        self._ledgers[share].add_round(clients)
        self.rounds += 1
        self.woken += len(clients)
        device = self._simulation.worker.device
        for reply in engine.stream(self._messages(engine, model, server_round, clients, own=True)):
            if not reply.has_error():
                update = own_update(reply.content)
                tensors = to_tensors(update.array_records[ARRAYS], device)
                metrics = scalars(update.metric_records[METRICS])
                yield client_of(reply.metadata.src_node_id), SentModel(tensors, metrics)

    def announce(self, model: Tensors, server_round: int) -> None:
        """Tell the server with which model a round begins; the messages that it makes are not sent."""
        self._messages(self._engine(1.0), model, server_round, [0], own=False)

    def _engine(self, share: float) -> Engine:
        """Return an engine whose clients train for a share of their epochs or steps."""
        if share not in self._engines:
            training, simulation = self._config.training, self._simulation
            if share < 1:
                part = {name: max(1, round(share * (getattr(training, name) or 1))) for name in ("epochs", "steps")}
                unit = "epochs" if training.steps is None else "steps"
                shorter = training.model_copy(update={unit: part[unit]})
                config = self._config.model_copy(update={"training": shorter})
                simulation = Simulation(config, self._progress, self._left)
            self._ledgers[share] = simulation.begin().ledger
            self._engines[share] = self._open.enter_context(contextlib.closing(simulation.engine()))
        return self._engines[share]

    def _messages(
        self, engine: Engine, model: Tensors, server_round: int, clients: Sequence[int], *, own: bool
    ) -> list[Message]:
        engine.cohort = clients
        config = ConfigRecord({OWN_UPDATES: own})
        messages = self._simulation.server.configure_train(server_round, to_record(model), config, engine)
        order = {node: position for position, node in enumerate(engine.get_node_ids())}
        return sorted(messages, key=lambda message: order[message.metadata.dst_node_id])
