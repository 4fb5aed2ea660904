"""The history of a run: one folder per round, written atomically, for methods that make it forget clients.

history/round-00000003/round.json            the clients drawn, those that answered, norms of their updates, checksums
history/round-00000003/model.safetensors     the global model as it was sent, and the server's state
history/round-00000003/client-7.safetensors  what client 7 sent
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import Message, RecordDict
from pydantic import BaseModel, ConfigDict, Field

from fedsim.atomic import fsync, remove_folder, size_on_disk, write_atomically
from fedsim.config.run import HistoryConfig
from fedsim.engine.client_state_file import read_records, size_bytes, write_records
from fedsim.errors import FedsimError, RunFailed
from fedsim.federated.types import State
from fedsim.flower.internals import client_of
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.flower.wire import ARRAYS, METRICS, WEIGHT, own_update
from fedsim.runs.observers import Beginning, RoundObserver
from fedsim.sealed import seal, sha256, unseal_in_run

FOLDER = "history"
_ROUND, _MODEL = "round.json", "model.safetensors"


class Participation(BaseModel):
    """What one client did in a round."""

    model_config = ConfigDict(frozen=True)

    weight: float | None = None
    """Weight of its update in the server's mean; None, like the fields below, in a round that was not kept."""
    norm: float | None = None
    """‖U_k‖₂, the norm of its update."""
    sha256: str | None = None
    """SHA-256 of the file of what it sent; None if only norms are kept."""


class _RoundFile(BaseModel):
    """Content of round.json."""

    round: int = Field(ge=1)
    cohort: list[int]
    """The clients that were drawn."""
    clients: dict[int, Participation]
    """The clients that answered, in the server's order."""
    server: dict[str, Any] | None = None
    """The JSON part of the server's state; None in a round that was not kept."""
    sha256: str | None = None
    """SHA-256 of model.safetensors."""


class SentModel(NamedTuple):
    """The tensors that a client sent."""

    tensors: Tensors
    metrics: dict[str, float]
    """The client's metrics, including `weight` and `num-examples`."""


def norm(update: Tensors) -> float:
    """Return ‖U‖₂ over all tensors, in float64."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.values()))


def difference(sent: Tensors, params: Tensors) -> Tensors:
    """Return U_k = θ_k − θ for those of the parameters θ that the client sent."""
    return {name: sent[name] - value.to(sent[name].device) for name, value in params.items() if name in sent}


Moved = Callable[[Tensors, Tensors], Tensors]
"""(sent, θ) -> U_k; see `Client.moved`."""


# Writing --------------------------------------------------------------------------------------------------------------


class HistoryWriter(RoundObserver):
    """Writes the rounds of a run to its history, one by one."""

    def __init__(self, run: Path, config: HistoryConfig, moved: Moved | None = None) -> None:
        self.folder, self.config = run / FOLDER, config
        self._moved = moved or difference
        self._bytes = 0
        self._model = State({}, {})
        self._round = _RoundFile(round=1, cohort=[], clients={})

    def rewind(self, server_round: int) -> None:
        """Drop the rounds after `server_round`: a run that was killed will run these again."""
        for path in self.folder.glob("round-*"):
            if path.name > _name(server_round):
                remove_folder(path)
        self.discard()
        self._bytes = size_on_disk(self.folder)

    def damaged(self) -> list[str]:
        """Return a line for each kept round that is damaged; nothing else would read it before it is needed."""
        lines = []
        for folder in sorted(self.folder.glob("round-*")):
            try:
                KeptRound(folder).require_whole()
            except FedsimError as error:
                lines.append(str(error))
        return lines

    def begin(
        self, server_round: int, cohort: Sequence[int], model: State, server: tuple[Tensors, dict[str, Any]]
    ) -> bool:
        """Begin a round that starts from `model`; returns whether clients are asked for their own updates."""
        self.discard()
        self.folder.mkdir(exist_ok=True)  # the run's own folder must already exist
        self._temporary.mkdir()
        kept = (server_round - 1) % self.config.every == 0
        self._model = model
        self._round = _RoundFile(
            round=server_round, cohort=list(cohort), clients={}, server=server[1] if kept else None
        )
        if kept:
            records = RecordDict(
                {"model": to_record({**model.params, **model.buffers}), "server": to_record(server[0])}
            )
            self._round.sha256 = self._write(self._temporary / _MODEL, records)
        return kept

    def add(self, client: int, content: RecordDict) -> None:
        """Store the good reply of a client."""
        share = Participation()
        if self._round.sha256 is not None:
            update = own_update(content)
            moved = self._moved(to_tensors(update.array_records[ARRAYS]), self._model.params)
            weight = scalars(update.metric_records[METRICS])[WEIGHT]
            file = self._temporary / _client(client)
            digest = self._write(file, update) if self.config.keep == "updates" else None
            share = Participation(weight=weight, norm=norm(moved), sha256=digest)
        self._round.clients[client] = share

    def round_begins(self, beginning: Beginning) -> bool:
        """Begin a round of a simulation."""
        return self.begin(beginning.server_round, beginning.cohort, beginning.model, beginning.state.server)

    def reply(self, message: Message) -> None:
        """Store a good reply."""
        if not message.has_error():
            self.add(client_of(message.metadata.src_node_id), message.content)

    def round_whole(self) -> None:
        """Put the round in its place."""
        self.commit()

    def commit(self) -> None:
        """Put the round in its place."""
        write_atomically(self._temporary / _ROUND, seal(self._round.model_dump_json(indent=1)))
        fsync(self._temporary)
        self._temporary.rename(self.folder / _name(self._round.round))
        fsync(self.folder)

    def discard(self) -> None:
        """Drop the round that was begun."""
        for rest in self.folder.glob(".*"):
            self._bytes -= size_on_disk(rest)
            shutil.rmtree(rest)

    @property
    def _temporary(self) -> Path:
        return self.folder / ".round.tmp"

    def _write(self, path: Path, records: RecordDict) -> str:
        if self._bytes + size_bytes(records) > self.config.quota_mb * 10**6:
            raise RunFailed(
                f"round {self._round.round}: the history would grow beyond history.quota_mb ({self.config.quota_mb}); "
                f"raise it in {self.folder.parent / 'config.yaml'} and go on with --resume"
            )
        digest = write_records(path, records)
        fsync(path)
        self._bytes += path.stat().st_size
        return digest


def require_room(config: HistoryConfig, model: Tensors, rounds: int, cohort: int) -> None:
    """Refuse a history that will exceed its quota.

    Raises
    ------
    FedsimError
        If `rounds` rounds of `cohort` clients take more.
    """
    kept = -(-rounds // config.every)
    files = kept * (1 + (cohort if config.keep == "updates" else 0))
    megabytes = files * sum(value.nbytes for value in model.values()) / 1e6
    if config.keep != "none" and megabytes > config.quota_mb:
        raise FedsimError(
            f"history.quota_mb: {kept:,} rounds of {cohort} clients take {megabytes:,.0f} MB, more than "
            f"{config.quota_mb}; raise it, set history.every higher, or history.keep to norms"
        )


# Reading --------------------------------------------------------------------------------------------------------------


class KeptRound:
    """One round of a history, read from its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_read = 0
        path = folder / _ROUND
        try:
            self._file = _RoundFile.model_validate_json(unseal_in_run(path, folder.parent.parent))
        except (OSError, ValueError):
            raise FedsimError(f"{path}: cannot be read, or was changed; run it anew to have a history") from None
        self.number = self._file.round
        self.cohort: Sequence[int] = self._file.cohort
        """The clients that were drawn."""
        self.clients: Mapping[int, Participation] = self._file.clients
        """The clients that answered, in the server's order."""

    @property
    def is_kept(self) -> bool:
        """Whether the round was kept; otherwise only the list of clients that answered is there."""
        return self._file.sha256 is not None

    def model(self) -> tuple[Tensors, tuple[Tensors, dict[str, Any]]]:
        """Return the global tensors as they were sent, and the server's `state_dict()` at that time."""
        records = self._read(self.folder / _MODEL, self._file.sha256).array_records
        return to_tensors(records["model"]), (to_tensors(records["server"]), self._file.server or {})

    def sent(self, client: int) -> SentModel:
        """Return what a client sent."""
        records = self._read(self.folder / _client(client), self.clients[client].sha256)
        return SentModel(to_tensors(records.array_records[ARRAYS]), scalars(records.metric_records[METRICS]))

    def require_whole(self) -> None:
        """Check the round's files against their hashes.

        Raises
        ------
        FedsimError
            If one is not.
        """
        digests = {_client(client): share.sha256 for client, share in self.clients.items()}
        for name, digest in (digests | {_MODEL: self._file.sha256}).items():
            if digest is not None:
                self._require(self.folder / name, digest)

    def _require(self, path: Path, digest: str | None) -> None:
        if digest is None or not path.is_file() or sha256(path) != digest:
            raise FedsimError(f"{path}: is not what the run kept (gone, or its hash differs); run it anew")

    def _read(self, path: Path, digest: str | None) -> RecordDict:
        self._require(path, digest)
        self.bytes_read += size_on_disk(path)
        return read_records(path)


def round_folders(run: Path) -> list[tuple[int, Path]]:
    """Return (number, folder) of all rounds in a run's history, ascending."""
    return [(int(path.name.removeprefix("round-")), path) for path in sorted((run / FOLDER).glob("round-*"))]


def open_history(run: Path, rounds: int) -> list[KeptRound]:
    """Return all rounds in the history of a finished run of `rounds` rounds; their tensors are read on demand.

    Raises
    ------
    FedsimError
        If one is missing or cannot be read.
    """
    return [KeptRound(run / FOLDER / _name(number)) for number in range(1, rounds + 1)]


def _name(server_round: int) -> str:
    return f"round-{server_round:08d}"


def _client(client: int) -> str:
    return f"client-{client}.safetensors"
