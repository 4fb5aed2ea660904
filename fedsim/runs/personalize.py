"""Models for single clients from a finished run: its own clients, seen or unseen, or new ones from a file."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Message

from fedsim.atomic import write_atomically
from fedsim.config.resolve import recorded_config, resolve, user_settings
from fedsim.data.datasets import load_newcomers
from fedsim.data.federation import FederatedData
from fedsim.data.partition import Partition
from fedsim.engine.inbox import ChunkMessage
from fedsim.engine.inprocess import InProcessEngine
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError
from fedsim.federated.exchange import conduct
from fedsim.flower import wire
from fedsim.flower.internals import client_of, reply_to
from fedsim.flower.records import Tensors, scalars, to_record
from fedsim.models.portable import Description, save_described
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.guarantees import in_words, promised_units
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.folder import RunFolder
from fedsim.runs.frozen import run_data
from fedsim.runs.reserve import held, new_content
from fedsim.runs.runner import load_run_tensors, require_same_data
from fedsim.runs.simulation import Simulation, described
from fedsim.runs.state import RunState
from fedsim.runs.traffic import payload_bytes

TABLE = "personal.csv"
_UNLEARNED = "unlearn"
"""Key of the configuration of an outcome of `fedsim unlearn`."""


@dataclass
class Personal:
    """The model of one client, with its metrics and costs."""

    client: int
    group: str
    """seen, unseen or new."""
    samples: int
    """Number of the client's training samples."""
    name: str = ""
    """The client's name in the table, if it has one."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics on the client's own test samples; only `num-examples` if it has none."""
    bytes: int = 0
    """Bytes of the tensors in all messages between the client and the server."""
    seconds: float = 0.0
    """Seconds of the client's own work."""
    untrained: bool = False
    """Whether a personal part of its model has never been trained on its samples."""
    trained: bool = False
    """Whether a part of the model was trained on its samples alone, without noise."""
    model: Tensors = field(default_factory=dict)
    """State dict of its model."""
    description: Description | None = None
    """Description of that model."""
    error: str = ""
    """Why there is no model, if there is none."""


def personalize(
    run: str | Path,
    clients: str | None = None,
    *,
    dataset: str | None = None,
    adapt_steps: int = 0,
    no_privacy: bool = False,
) -> list[Personal]:
    """Return a model for each client, in order.

    Parameters
    ----------
    run
        The folder of a finished run.
    clients
        Numbers and ranges of its clients, as `90-99,3`; by default the unseen ones, or all where there are none.
    dataset
        New clients from `npz:FILE` or `csv:FILE` instead: one for each identity in it, or one for all of it.
    adapt_steps
        Local steps in which a client trains what it keeps for itself, or, where it keeps nothing, all of its model.
    no_privacy
        Let clients adapt the model although this breaks the run's privacy promise.

    Raises
    ------
    FedsimError
        If the run is not finished, its checkpoint or data has changed, or there are no such clients.
    """
    if clients is not None and dataset is not None:
        raise FedsimError("--clients: names clients of the run, and --dataset brings new ones; give one of them")
    asked = RunFolder.open(run)
    forgetful = _UNLEARNED in asked.config  # outcomes are two folders below their run
    folder = RunFolder.open(asked.path.resolve().parents[1]) if forgetful else asked
    if folder.status != "finished":
        astray = folder.status == "diverged"
        remedy = "run it anew with a lower training.lr" if astray else f"fedsim run --resume {folder.path}"
        raise FedsimError(f"{run}: is {folder.status}, and only a finished run has models; {remedy}")
    if adapt_steps and dataset is None and not no_privacy:
        _require_no_promise(folder)
    recorded = resolve(user_settings(), recorded_config(folder.path))
    simulation = Simulation(recorded, data=run_data(asked.path, recorded))  # without what was forgotten
    require_same_data(asked, simulation.data)
    checkpoint = load_latest(folder.path)
    config = simulation.config
    worker, wanted = simulation.worker, chosen(clients, simulation) if dataset is None else range(0)
    if dataset is not None:
        data = newcomers(simulation, dataset)
        worker, wanted = Worker(config, data), range(config.clients, len(data.partition))
    assert config.training.chunk is not None
    with closing(InProcessEngine(worker, len(worker.data.partition), config.training.chunk)) as engine:
        whole = checkpoint is not None and checkpoint.round == config.rounds
        state = simulation.restore(checkpoint, engine) if whole and checkpoint is not None else simulation.begin()
        if forgetful or not whole:
            state.tensors, state.round = _plain_model(asked, simulation), config.rounds
        return models_for(wanted, simulation, state, worker, engine, adapt_steps)


def models_for(
    wanted: Sequence[int],
    simulation: Simulation,
    state: RunState,
    worker: Worker,
    engine: InProcessEngine,
    adapt_steps: int = 0,
) -> list[Personal]:
    """Return the model of each client, given the run's state and an engine that has the clients' own states."""
    engine.cohort = wanted
    desk = _Desk(worker, engine, adapt_steps, {c: _new(c, simulation, worker.data) for c in wanted})
    arrays = to_record(state.tensors)
    conduct(simulation.server.exchange_evaluate(state.round, arrays, ConfigRecord(), engine), desk.send)
    return list(desk.clients.values())


def _require_no_promise(folder: RunFolder) -> None:
    """Refuse to train without noise on samples if the run promises privacy."""
    if not ledgers.exists(folder.path):
        return
    if units := promised_units(ledgers.Ledger.read(folder.path), ended=False):
        raise FedsimError(
            f"--adapt-steps: trains on clients' samples without noise, and the run promises privacy of "
            f"{in_words(units)}; leave it out, or give --no-privacy"
        )


def _plain_model(folder: RunFolder, simulation: Simulation) -> Tensors:
    """Return the global tensors of an unlearned or pruned model; refuse if clients' models need more than these."""
    name, server = simulation.config.strategy.name, simulation.server
    tensors = load_run_tensors(folder)
    if simulation.worker.client.personalised or tensors.keys() != server.initial().keys():
        raise FedsimError(
            f"{folder.path}: a client's model of {name} needs more than this model, and the folder has nothing more; "
            "personalize an outcome or a pruned model of a fedavg run, or the run itself"
        )
    return {name: value.to(simulation.worker.device) for name, value in tensors.items()}


def _new(client: int, simulation: Simulation, data: FederatedData) -> Personal:
    config = simulation.config
    group = "seen" if client < config.clients_seen else "unseen" if client < config.clients else "new"
    names, number = data.dataset.client_names, client - (config.clients if group == "new" else 0)
    about = described(config, simulation.data.dataset)
    return Personal(client, group, len(data.partition[client]), names[number] if names else "", description=about)


class _Desk:
    """Executes the waves of an evaluation in this process, and stores the model that each client evaluates."""

    def __init__(self, worker: Worker, engine: InProcessEngine, adapt_steps: int, clients: dict[int, Personal]) -> None:
        self.worker, self.engine, self.adapt_steps, self.clients = worker, engine, adapt_steps, clients

    def send(self, wave: list[Message]) -> Iterator[Message]:
        """Yield the reply to each message."""
        last = bool(wave) and wave[0].metadata.message_type == wire.EVALUATE
        begun = time.perf_counter()
        for message, reply in zip(wave, map(self._evaluate, wave) if last else self.engine.stream(wave), strict=True):
            one = self.clients[client_of(message.metadata.dst_node_id)]
            one.seconds += time.perf_counter() - begun
            one.bytes += payload_bytes(message.content)
            if reply.has_error():
                one.error = (reply.error.reason or "no reason given").split("\n", 1)[0]
            else:
                one.bytes += payload_bytes(reply.content)
            yield reply
            begun = time.perf_counter()

    def _evaluate(self, message: Message) -> Message:
        client, worker = client_of(message.metadata.dst_node_id), self.worker
        sent, one = ChunkMessage(client, self.engine.states[client], message.content), self.clients[client]
        model, constants = worker.model_of(sent, self.adapt_steps)
        content = worker.measure(sent, model)
        one.metrics = scalars(content.metric_records[wire.METRICS])
        keeps = worker.client.personalised and bool(worker.client.personal(client, model).params)
        one.trained = self.adapt_steps > 0 or (keeps and wire.PERSONAL in sent.state)
        one.untrained = keeps and not one.trained
        one.model = worker.client.plain(model, constants)
        return reply_to(message, content)


def chosen(clients: str | None, simulation: Simulation) -> Sequence[int]:
    """Return the clients of a text such as `90-99,3`; for None the unseen ones, or all if there are none."""
    config, sizes = simulation.config, simulation.data.partition.sizes
    if clients is None:
        some: Sequence[int] = range(config.clients_seen if config.clients_unseen else 0, config.clients)
        return [client for client in some if sizes[client]]
    found: dict[int, None] = {}
    for part in clients.split(","):
        bounds = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if bounds is None:
            raise FedsimError(f"--clients: must be numbers and ranges such as 90-99,3; got {clients!r}")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if not first <= last < config.clients:
            raise FedsimError(f"--clients: the run has clients 0 to {config.clients - 1}; got {part.strip()!r}")
        found |= dict.fromkeys(range(first, last + 1))
    if empty := [client for client in found if not sizes[client]]:
        raise FedsimError(f"--clients: client {empty[0]} has no samples; leave it out")
    return list(found)


def newcomers(simulation: Simulation, name: str) -> FederatedData:
    """Return the data of new clients, encoded like the run's data; their numbers continue those of the run.

    One for each identity of the training part of the file, or one for all of it; tests are the test part, or that of
    the same identity.
    """
    config, ours = simulation.config, simulation.data.dataset
    if not name.startswith(("npz:", "csv:")):
        raise FedsimError(f"--dataset: must be npz:FILE or csv:FILE; got {name!r}")
    dataset = load_newcomers(config.data.model_copy(update={"name": name}), config.seed, ours)
    held, tested = dataset.identity_train, dataset.identity_test
    people = np.zeros(1, np.int64) if held is None else np.unique(held)
    train = [np.flatnonzero(held == one) if held is not None else np.arange(len(dataset.y_train)) for one in people]
    test = [np.flatnonzero(tested == one) if tested is not None else np.arange(len(dataset.y_test)) for one in people]
    nobody = [np.empty(0, np.int64)] * config.clients
    partition, client_test = (Partition.from_lists([*nobody, *lists]) for lists in (train, test))
    counts = np.bincount(dataset.strata_train[partition.indices], minlength=dataset.num_strata)
    without = Partition.from_lists([*nobody, *nobody[:1] * len(people)])
    return FederatedData(dataset, partition, client_test, "test", counts, without)


def personal_ledger(run: Path, made: Sequence[Personal]) -> ledgers.Ledger | None:
    """Return the privacy ledger of the clients' models; None if the run has no ledger.

    They use what the run has released. Parts that were trained on the samples of one client alone, if there are
    any, reveal these without noise. New clients have no privacy promise.
    """
    if not ledgers.exists(run):
        return None
    inherited = ledgers.Ledger.read(run)
    own = {one.client for one in made if one.trained and one.group != "new"}
    if not own:
        return inherited
    took_part = [int(client in own) for client in range(len(inherited.took_part))]
    since = ledgers.unprotected("parts of models trained on a client's own samples", len(took_part))
    return inherited.then(since.model_copy(update={"took_part": took_part}))


def write_personal(out: Path, made: Sequence[Personal], ledger: ledgers.Ledger | None = None) -> None:
    """Write a folder with the table, one model per client, for `fedsim.load_model`, and the ledger of all of them.

    The folder is written atomically and replaces that of an earlier call.

    Raises
    ------
    FedsimError
        If something else is in that place.
    """
    if out.exists() and not (out / TABLE).is_file():
        raise FedsimError(f"{out}: exists, and holds no {TABLE}; choose another --out")
    with held(out, remedy="choose another --out"), new_content(out) as temporary:
        for one in made:
            if not one.error and one.description is not None:
                save_described(one.model, one.description, temporary / f"client-{one.client}.safetensors")
        if ledger is not None:
            ledger.save(temporary)
        write_atomically(temporary / TABLE, _csv(made).encode())


def _csv(made: Sequence[Personal]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["accuracy", "accuracy_unmasked", "accuracy_masked", "mse"]
    columns = [name for name in columns if any(name in one.metrics for one in made)]
    writer.writerow(["client", "name", "group", "train_samples", "test_samples", *columns, "bytes", "seconds", "error"])
    for one in made:
        values = [repr(one.metrics[name]) if name in one.metrics else "" for name in columns]
        tests = int(one.metrics.get(wire.NUM_EXAMPLES, 0))
        about = [one.client, one.name, one.group, one.samples, tests]
        row = [*about, *values, one.bytes, f"{one.seconds:.3f}", one.error]
        writer.writerow(row)
    return text.getvalue()
