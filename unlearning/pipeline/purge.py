"""A purge: a deletion that lasts. Everything from which a contribution can be computed leaves the folder of the run.

The run becomes what the request came to: its model is the unlearned one, its data are what is left, its history and
its checkpoint are those of the replay, if there was one. So every command that takes the run obeys the deletion.

Why so much: θ^{t+1} = Σ_k p_k θ_k^t is a linear equation. With the models of two rounds, the weights and what the
others sent, it gives what a client sent to seven digits; with a client's share of each class known in sum, its own is
the difference. Models of later rounds, of other seeds and of other requests have learned from it, too.
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
    "copies of the models before that were handed out, printed, or backed up, and the hashes of them",
    "what the run has released, as its privacy ledger lists it: rounds that each client took part in among it",
    "the data set itself: delete the rows where they are stored; every command on this run goes on without them",
    "the numbers of the rows that are left, constants of input normalisation, and accuracies measured before",
]


def plan(source: Source, left: FederatedData, outcome: Path | None) -> list[Destroyed]:
    """Return what a purge destroys, or has replaced; nothing is changed.

    Parameters
    ----------
    source
        Of the request.
    left
        Its data without what is forgotten.
    outcome
        The folder that the request came to; None before there is one.
    """
    root = source.root
    found: list[Destroyed] = []

    def add(path: Path, what: str) -> None:
        if path.exists():
            found.append(Destroyed(path=str(path.relative_to(root)), bytes=size_on_disk(path), what=what))

    first = _first_round(root, touched(source, left))
    for number, folder in round_folders(root):
        if number >= first:
            add(folder, "replaced by that of the replay, or gone: models, updates, cohorts and weights of a round")
    trained_on = left.of_first(source.config.clients_seen).content_hash
    add(root / "checkpoints", "replaced: models of rounds, the server's state, clients' own models and states")
    for kind in FOLDERS:
        for folder in sorted((root / "unlearned" / kind).glob("*")):
            kept = RunFolder.open(folder).environment.get("data_sha256") == trained_on
            if not kept:
                add(folder, "a model trained on what is forgotten")
    add(root / "unlearned" / MEMBERS, "models trained on what is forgotten, and what models say of it")
    for folder in sorted((root / "unlearned").glob("*/config.yaml")):
        own = folder.parent
        if own.name not in FOLDERS and own != outcome and not _knows_nothing(own, left):
            add(own, "the outcome of a request that did not forget this")
    for derived in ("pruned", "personal", "attributions", "plots", "report.html", "clients.csv"):
        add(root / derived, "derived from the model before")
    add(root / "model.safetensors", "replaced: the model before")
    add(root / "partition.npz", "replaced: counts of each client's classes")
    if outcome is not None:
        for part in ("models", "seeds", "forget.npy", "plots"):
            add(outcome / part, "models that were not chosen, models of other seeds, and row numbers of the request")
    return found


def touched(source: Source, left: FederatedData) -> frozenset[int]:
    """Return the clients of the run that lose samples."""
    before = run_data(source.root, source.config).partition.sizes if source.earlier else source.everyone.partition.sizes
    return frozenset(np.flatnonzero(before > left.partition.sizes).tolist())


def _first_round(root: Path, clients: Collection[int]) -> int:
    """Return the first kept round that one of these clients was drawn for; beyond the last if there is none."""
    number = 0
    for number, folder in round_folders(root):
        if set(KeptRound(folder).cohort) & set(clients):
            return number
    return number + 1


def _knows_nothing(outcome: Path, left: FederatedData) -> bool:
    """Return whether an outcome's model may know no more than what is left."""
    try:
        with np.load(outcome / FROZEN, allow_pickle=False) as archive:
            return bool(np.isin(archive["partition_indices"], left.partition.indices).all())
    except (OSError, ValueError, KeyError):
        return False


def carry_out(root: Path, config: RunConfig, left: FederatedData, outcome: Path, destroyed: list[Destroyed]) -> None:
    """Destroy what was planned, and make the run what the request came to; done twice, it is as done once.

    Raises
    ------
    FedsimError
        If something is to be destroyed that is not in the folder of the run; nothing is destroyed then.
    """
    whole = root.resolve()
    if outside := [gone.path for gone in destroyed if whole not in (whole / gone.path).resolve().parents]:
        raise FedsimError(f"{root}: a purge of it names {outside[0]}, which is not in it; nothing was destroyed")
    for gone in destroyed:
        _remove(root / gone.path)
    for rest in ("history/.*", ".states", ".*.tmp"):  # of processes that were killed
        for path in root.glob(rest):
            _remove(path)
    _become(root, config, left, outcome)


def _become(root: Path, config: RunConfig, left: FederatedData, outcome: Path) -> None:
    """Put data, model, history and checkpoint of the outcome in the place of the run's."""
    freeze(root, left)
    write_partition(root, left)
    shutil.copyfile(outcome / "model.safetensors", root / "model.safetensors")
    if (outcome / HISTORY).is_dir():
        _remove(root / HISTORY)
        shutil.copytree(outcome / HISTORY, root / HISTORY, copy_function=link)
    described = read_yaml(outcome / "config.yaml")
    described[MARK]["source"] = None  # the run itself has taken the place of what it was derived from
    write_atomically(outcome / "config.yaml", yaml.safe_dump(described, sort_keys=False).encode())
    lines = _lines_without_clients(root / "metrics.jsonl")
    _checkpoint(root, config, left, outcome, lines)
    sums = {name: sha256(root / name) for name in ("partition.npz", "metrics.jsonl") if (root / name).is_file()}
    _change(root / "environment.json", {"data_sha256": left.content_hash}, sums)
    changes = {
        "model_sha256": sha256(root / "model.safetensors"), "class_counts": left.class_counts.tolist(),
        "reason": f"its model is that of unlearned/{outcome.name}; the metrics are of the model before",
    }  # fmt: skip
    _change(root / "summary.json", changes, sums)


def _checkpoint(root: Path, config: RunConfig, left: FederatedData, outcome: Path, lines: list[dict[str, Any]]) -> None:
    """Leave a checkpoint to go on from: that of the replay, or the model's alone, where it tells the global tensors."""
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
    """Return the lines of metrics.jsonl, and write them anew, without the clients whose replies were lost."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in lines:
        line.pop("failures", None)
    write_atomically(file, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return lines


def _change(file: Path, changes: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Set keys of a sealed JSON file, and the checksums, in `files`, of those that it has."""
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
