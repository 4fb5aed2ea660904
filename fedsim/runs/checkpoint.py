"""Checkpoints: all state that a run needs to continue bit for bit, as safetensors and JSON, written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from typing_extensions import TypedDict

from fedsim.atomic import fsync, remove_folder
from fedsim.engine.states import ClientStates, file_name
from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.sealed import Damaged, seal, sha256, unseal_in_run

_SERVER = "server-"  # prefix of the name of the file with the server's tensors; a digest follows
_KEPT = 2  # the newest, and the one before it in case the disk fails


@dataclass(frozen=True)
class Checkpoint:
    """A run after `round` rounds."""

    round: int
    model: Tensors
    """The global tensors."""
    server: tuple[Tensors, dict[str, Any]]
    """The server's `state_dict()`."""
    clients: ClientStates
    """States of the clients that have one; each is written to a file of its own and read on demand."""
    trained: list[int]
    """Clients that have trained."""
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl so far."""
    failures: int
    """Client replies lost so far."""
    recipe: dict[str, Any]
    """`RunConfig.recipe()` of the run: the options that must not change when the run continues."""
    took_part: list[int]
    """Number of rounds for which each client was drawn, as in the ledger."""
    clip_norm: float | None
    """The clipping norm of the next round, if client-level privacy is on."""
    released: int | None = None
    """Rounds in the ledger, if more than `round`: the run was killed after it had released later rounds."""

    def save(self, run_folder: Path) -> None:
        """Write this checkpoint under a run folder and drop old ones.

        The state of a client, or the tensors of the server, are written as a hard link to the file of the last
        checkpoint if they have not changed.
        """
        folder = run_folder / "checkpoints"
        for rest in folder.glob(".round-*"):  # left behind by a process that was killed here
            shutil.rmtree(rest)
        final, temporary = folder / _name(self.round), folder / f".{_name(self.round)}.tmp"
        folder.mkdir(exist_ok=True)  # the run's own folder must already exist
        (temporary / "clients").mkdir(parents=True)
        new = self.clients.write_committed(temporary / "clients")
        groups = {"model": self.model, "server": self.server[0]}
        _save({f"model/{name}": value for name, value in self.model.items()}, temporary / "tensors.safetensors")
        digests = {f"clients/{file_name(client)}": digest for client, digest in self.clients.digests().items()}
        digests["tensors.safetensors"] = sha256(temporary / "tensors.safetensors")
        new.append(temporary / "tensors.safetensors")
        if self.server[0]:
            name, digest, is_new = _write_server(self.server[0], folder, temporary)
            digests[name] = digest
            new += [temporary / name] if is_new else []
        state_json = {
            "round": self.round, "server": self.server[1], "clients": self.clients.committed(),
            "names": {group: list(part) for group, part in groups.items()},
            "trained": self.trained, "metrics": self.metrics, "failures": self.failures,
            "recipe": self.recipe,
            "took_part": self.took_part, "released": self.released, "clip_norm": self.clip_norm, "files": digests,
        }  # fmt: skip
        (temporary / "state.json").write_bytes(seal(json.dumps(state_json, indent=1)))
        for path in [*new, temporary / "state.json", temporary / "clients"]:
            fsync(path)
        fsync(temporary)
        if final.exists():
            remove_folder(final)
        temporary.rename(final)
        fsync(folder)
        self.clients.moved_to(final / "clients")
        for old in sorted(folder.glob("round-*"))[:-_KEPT]:
            remove_folder(old)


def load_latest(run_folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run; None if the run has none.

    Raises
    ------
    FedsimError
        If the newest checkpoint is damaged; the message says whether an older one is usable.
    """
    folders = sorted((run_folder / "checkpoints").glob("round-*"))
    if not folders:
        return None
    try:
        return _load(folders[-1])
    except FedsimError as error:
        remedy = "none before it is whole, so start the run again"
        for older in folders[:-1]:
            with contextlib.suppress(FedsimError):
                remedy = f"remove that folder to go on from the one of round {_load(older).round}, which is whole"
        raise FedsimError(f"{error}; {remedy}") from None


def _load(folder: Path) -> Checkpoint:
    try:
        state = _StateFile.model_validate_json(unseal_in_run(folder / "state.json", folder.parent.parent))
        if not state.files:  # written by a version without checksums: the files are not checked
            state.files = {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*.safetensors")}
        for name, digest in state.files.items():
            if sha256(folder / name) != digest:
                raise Damaged(f"the checksum of {name} does not match")
        tensors = load_file(folder / "tensors.safetensors")
        for name in state.files:
            if name.startswith(_SERVER):
                tensors |= load_file(folder / name)
        # In the order of the run that wrote them: files sort names, and a sum over names must not depend on that.
        model, server = (
            {name: tensors[f"{group}/{name}"] for name in state.names[group]} for group in ("model", "server")
        )
        files = {client: folder / "clients" / file_name(client) for client in state.clients}
        clients = ClientStates()
        clients.adopt(files, {client: state.files[f"clients/{file_name(client)}"] for client in files})
        return Checkpoint(
            state.round, model, (server, state.server), clients, state.trained, list(map(dict, state.metrics)),
            state.failures, state.recipe, state.took_part, state.clip_norm, state.released,
        )  # fmt: skip
    except (OSError, SafetensorError, ValueError, KeyError):
        raise FedsimError(f"{folder}: the checkpoint is damaged") from None


class _RoundMetrics(TypedDict):
    round: int
    time_s: float
    bytes_down: NotRequired[int]
    bytes_up: NotRequired[int]
    metrics: dict[str, float | None]
    per_class: NotRequired[list[float | None]]
    failures: NotRequired[dict[str, list[int]]]


class _StateFile(BaseModel):
    """Content of state.json."""

    model_config = ConfigDict(strict=True)

    round: int = Field(ge=0)
    server: dict[str, Any]
    clients: list[int]
    names: dict[str, list[str]]
    trained: list[int]
    metrics: list[_RoundMetrics]
    failures: int = Field(ge=0)
    recipe: dict[str, Any]
    took_part: list[int]
    released: int | None = None
    clip_norm: float | None
    files: dict[str, str] = {}
    """SHA-256 of each file beside this one."""


def _name(server_round: int) -> str:
    return f"round-{server_round:08d}"


def _write_server(tensors: Tensors, folder: Path, temporary: Path) -> tuple[str, str, bool]:
    """Put the server's tensors into a checkpoint; returns the file's name and SHA-256, and whether it is a new one."""
    content = save(_saveable({f"server/{name}": tensors[name] for name in sorted(tensors)}))
    digest = hashlib.sha256(content).hexdigest()
    name = f"{_SERVER}{digest[:16]}.safetensors"
    for before in sorted(folder.glob("round-*"))[-1:]:
        with contextlib.suppress(OSError):  # the file does not exist, or the file system has no hard links
            os.link(before / name, temporary / name)
            return name, digest, False
    (temporary / name).write_bytes(content)
    return name, digest, True


def _saveable(tensors: Tensors) -> Tensors:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _save(tensors: Tensors, path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode  # the mode of other files; safetensors would make a file that only the user can read
    save_file(_saveable(tensors), path)
    path.chmod(mode)


def save_model(path: Path, tensors: Tensors) -> None:
    """Write a state dict as one safetensors file, atomically; equal tensors give equal bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    _save({name: tensors[name] for name in sorted(tensors)}, temporary)
    fsync(temporary)
    temporary.replace(path)


def load_model(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a safetensors file."""
    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (OSError, SafetensorError) as error:
        raise FedsimError(f"{path}: not a readable model file ({type(error).__name__})") from None
