"""A purge: permanently deletes from a run's folder all files from which a deleted contribution can be computed.

The run takes over the outcome of the request: the unlearned model, the remaining data, and the history and checkpoint
of the replay, if there was one. So all later commands on the run obey the deletion.

Why so many files are deleted: θ^{t+1} = Σ_k p_k θ_k^t is a linear equation. The models of two rounds, the weights p_k
and the updates of the other clients determine a client's update to seven digits. The class counts of a client follow
from those of all clients and those of the others. Models of later rounds, other seeds and other requests have also
learned from the deleted samples.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedsim.atomic import link, size_on_disk, write_atomically
from fedsim.config.resolve import read_yaml
from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import load_latest, load_model
from fedsim.runs.folder import RunFolder
from fedsim.runs.frozen import FILE as FROZEN
from fedsim.runs.frozen import freeze, run_data, write_partition
from fedsim.runs.history import FOLDER as HISTORY
from fedsim.runs.history import KeptRound, round_folders
from fedsim.runs.simulation import Simulation
from fedsim.sealed import seal, sha256, unseal
from unlearning.api.federation import global_tensors
from unlearning.pipeline.deletions import Destroyed
from unlearning.pipeline.oracle import FOLDERS, MEMBERS
from unlearning.pipeline.privacy import carried_on
from unlearning.pipeline.source import MARK, Source

REMAINS = [
    "copies of earlier models outside of this folder, such as published models and backups, and hashes of these models",
    "the privacy ledger of the run: all its releases, and the number of rounds in which each client took part",
    "the data set itself: delete the rows where they are stored; all commands on this run ignore them",
    "the row numbers of the remaining samples, the constants of input normalisation, and accuracies measured before",
]


def plan(source: Source, left: FederatedData, outcome: Path | None) -> list[Destroyed]:
    """Return the files and folders that a purge destroys or replaces; nothing is changed.

    Parameters
    ----------
    source
        The source of the request.
    left
        The source's data without the forgotten samples.
    outcome
        The folder of the outcome; None if the request has not been served yet.
    """
    root = source.root
    found: list[Destroyed] = []

    def add(path: Path, what: str) -> None:
        if path.exists():
            found.append(Destroyed(path=str(path.relative_to(root)), bytes=size_on_disk(path), what=what))

    first = _first_round(root, touched(source, left))
    for number, folder in round_folders(root):
        if number >= first:
            add(folder, "replaced by the replay, or removed: models, updates, cohorts and weights of a round")
    trained_on = left.of_first(source.config.clients_seen).content_hash
    add(root / "checkpoints", "replaced: models of rounds, the server's state, clients' own models and states")
    for kind in FOLDERS:
        for folder in sorted((root / "unlearned" / kind).glob("*")):
            kept = RunFolder.open(folder).environment.get("data_sha256") == trained_on
            if not kept:
                add(folder, "a model trained on forgotten samples")
    add(root / "unlearned" / MEMBERS, "models trained on forgotten samples, and predictions on these samples")
    for folder in sorted((root / "unlearned").glob("*/config.yaml")):
        own = folder.parent
        if own.name not in FOLDERS and own != outcome and not _knows_nothing(own, left):
            add(own, "the outcome of a request that did not forget these samples")
    for derived in ("pruned", "personal", "attributions", "plots", "report.html", "clients.csv"):
        add(root / derived, "derived from the earlier model")
    add(root / "model.safetensors", "replaced: the earlier model")
    add(root / "partition.npz", "replaced: each client's class counts")
    if outcome is not None:
        for part in ("models", "seeds", "forget.npy", "plots"):
            add(outcome / part, "models that were not delivered, models of other seeds, and row numbers of the request")
    return found


def touched(source: Source, left: FederatedData) -> frozenset[int]:
    """Return the clients of the run that lose samples."""
    before = run_data(source.root, source.config).partition.sizes if source.earlier else source.everyone.partition.sizes
    return frozenset(np.flatnonzero(before > left.partition.sizes).tolist())


def _first_round(root: Path, clients: Collection[int]) -> int:
    """Return the first kept round whose cohort has one of these clients; the number after the last if there is none."""
    number = 0
    for number, folder in round_folders(root):
        if set(KeptRound(folder).cohort) & set(clients):
            return number
    return number + 1


def _knows_nothing(outcome: Path, left: FederatedData) -> bool:
    """Return whether the data of an outcome's model are a subset of the remaining data."""
    try:
        with np.load(outcome / FROZEN, allow_pickle=False) as archive:
            return bool(np.isin(archive["partition_indices"], left.partition.indices).all())
    except (OSError, ValueError, KeyError):
        return False


def carry_out(root: Path, config: RunConfig, left: FederatedData, outcome: Path, destroyed: list[Destroyed]) -> None:
    """Destroy the planned files, and let the run take over the outcome; the operation is idempotent.

    Raises
    ------
    FedsimError
        If the plan names a path outside of the run's folder; nothing is destroyed then.
    """
    whole = root.resolve()
    if outside := [gone.path for gone in destroyed if whole not in (whole / gone.path).resolve().parents]:
        raise FedsimError(f"{root}: its purge names {outside[0]}, which is outside of it; nothing was destroyed")
    for gone in destroyed:
        _remove(root / gone.path)
    for rest in ("history/.*", ".states", ".*.tmp"):  # temporary files of killed processes
        for path in root.glob(rest):
            _remove(path)
    _become(root, config, left, outcome)


def _become(root: Path, config: RunConfig, left: FederatedData, outcome: Path) -> None:
    """Replace data, model, history and checkpoint of the run by those of the outcome."""
    freeze(root, left)
    write_partition(root, left)
    shutil.copyfile(outcome / "model.safetensors", root / "model.safetensors")
    if (outcome / HISTORY).is_dir():
        _remove(root / HISTORY)
        shutil.copytree(outcome / HISTORY, root / HISTORY, copy_function=link)
    described = read_yaml(outcome / "config.yaml")
    described[MARK]["source"] = None  # the run itself replaces the outcome that it was derived from
    write_atomically(outcome / "config.yaml", yaml.safe_dump(described, sort_keys=False).encode())
    lines = _lines_without_clients(root / "metrics.jsonl")
    _checkpoint(root, config, left, outcome, lines)
    sums = {name: sha256(root / name) for name in ("partition.npz", "metrics.jsonl") if (root / name).is_file()}
    _change(root / "environment.json", {"data_sha256": left.content_hash}, sums)
    changes = {
        "model_sha256": sha256(root / "model.safetensors"), "class_counts": left.class_counts.tolist(),
        "reason": f"its model is that of unlearned/{outcome.name}; the metrics are those of the earlier model",
    }  # fmt: skip
    _change(root / "summary.json", changes, sums)


def _checkpoint(root: Path, config: RunConfig, left: FederatedData, outcome: Path, lines: list[dict[str, Any]]) -> None:
    """Write a checkpoint to continue from: the replay's, or the model's if that determines the global tensors."""
    checkpoint = load_latest(outcome)
    simulation = Simulation(config, data=left)
    own = simulation.begin().ledger
    replayed = checkpoint if checkpoint is not None and checkpoint.round == config.rounds else None
    if replayed is not None:
        dataclasses.replace(replayed, recipe=simulation.config.recipe(), metrics=lines).save(root)
        own = own.model_copy(update={"rounds": replayed.round, "took_part": replayed.took_part})
    if ledgers.exists(outcome):
        carried_on(Ledger.read(outcome), own).save(root)
    if replayed is not None:
        return
    tensors = global_tensors(simulation.server, load_model(root / "model.safetensors"))
    if tensors is not None:
        with contextlib.closing(simulation.engine()) as engine:
            state = dataclasses.replace(simulation.begin(), tensors=tensors, round=config.rounds, metrics=lines)
            simulation.checkpoint(state, engine).save(root)


def _lines_without_clients(file: Path) -> list[dict[str, Any]]:
    """Rewrite metrics.jsonl without the list of failed clients, and return its lines."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in lines:
        line.pop("failures", None)
    write_atomically(file, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return lines


def _change(file: Path, changes: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Set keys of a sealed JSON file, and update the checksums of those files that its `files` lists."""
    content = json.loads(unseal(file.read_bytes()))
    files = content.get("files", {})
    content |= changes
    if files:
        content["files"] = files | {name: digest for name, digest in sums.items() if name in files}
    write_atomically(file, seal(json.dumps(content, indent=1)))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
