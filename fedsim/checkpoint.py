"""Checkpoints: all that a run needs to go on bit for bit, as safetensors and JSON, there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.records import Tensors, to_record, to_tensors

_KEPT = 2  # the newest, and the one before in case a disk fails


@dataclass(frozen=True)
class Checkpoint:
    """A run after `round` rounds."""

    round: int
    model: Tensors
    """The global tensors."""
    server: tuple[Tensors, dict[str, Any]]
    """The server's `state_dict()`."""
    clients: Mapping[int, RecordDict]
    """The state of each client that has one."""
    trained: list[int]
    """Clients that have trained."""
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl so far."""
    failures: int
    """Client replies lost so far."""

    def save(self, run_folder: Path) -> None:
        """Write this checkpoint under a run folder and drop old ones."""
        folder = run_folder / "checkpoints"
        final, temporary = folder / _name(self.round), folder / f".{_name(self.round)}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tensors = {f"model/{name}": value for name, value in self.model.items()}
        tensors |= {f"server/{name}": value for name, value in self.server[0].items()}
        values: dict[str, Any] = {}
        for client, state in self.clients.items():
            for key, record in state.items():
                if isinstance(record, ArrayRecord):
                    tensors |= {f"client/{client}/{key}/{name}": value for name, value in to_tensors(record).items()}
                    values.setdefault(str(client), {})[key] = ["arrays", None]
                else:
                    kind = "metrics" if isinstance(record, MetricRecord) else "config"
                    values.setdefault(str(client), {})[key] = [kind, {n: _plain(v) for n, v in record.items()}]
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
            temporary / "tensors.safetensors",
        )
        state_json = {
            "round": self.round, "server": self.server[1], "clients": values, "trained": self.trained,
            "metrics": self.metrics, "failures": self.failures,
        }  # fmt: skip
        (temporary / "state.json").write_text(json.dumps(state_json), encoding="utf-8")
        for path in [temporary / "tensors.safetensors", temporary / "state.json", temporary]:
            _fsync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _fsync(folder)
        for old in sorted(folder.glob("round-*"))[:-_KEPT]:
            shutil.rmtree(old)


def load_latest(run_folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run; None if it got to none.

    Raises
    ------
    FedsimError
        If the newest checkpoint is damaged.
    """
    folders = sorted((run_folder / "checkpoints").glob("round-*"))
    if not folders:
        return None
    folder = folders[-1]
    try:
        tensors = load_file(folder / "tensors.safetensors")
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        model, server, arrays = _sorted(tensors)
        clients = {
            int(client): RecordDict({
                key: to_record(arrays.get((client, key), {})) if kind == "arrays"
                else MetricRecord(value) if kind == "metrics"
                else ConfigRecord({name: _unplain(v) for name, v in value.items()})
                for key, (kind, value) in records.items()
            })
            for client, records in state["clients"].items()
        }  # fmt: skip
        return Checkpoint(
            state["round"],
            model,
            (server, state["server"]),
            clients,
            state["trained"],
            state["metrics"],
            state["failures"],
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        remedy = "remove that folder to go on from the one before" if len(folders) > 1 else "start the run again"
        raise FedsimError(f"{folder}: the checkpoint is damaged; {remedy}") from None


def _sorted(tensors: Tensors) -> tuple[Tensors, Tensors, dict[tuple[str, str], Tensors]]:
    groups: dict[str, Tensors] = {"model": {}, "server": {}}
    arrays: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, rest = name.split("/", 1)
        if group == "client":
            client, key, rest = rest.split("/", 2)
            arrays.setdefault((client, key), {})[rest] = value
        else:
            groups[group][rest] = value
    return groups["model"], groups["server"], arrays


def _name(server_round: int) -> str:
    return f"round-{server_round:08d}"


def _plain(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _unplain(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_model(path: Path, tensors: Tensors) -> None:
    """Write a state dict as one safetensors file, atomically; equal tensors give equal bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}, temporary)
    _fsync(temporary)
    temporary.replace(path)


def load_model(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a safetensors file."""
    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (OSError, SafetensorError) as error:
        raise FedsimError(f"{path}: not a readable model file ({type(error).__name__})") from None
