"""Trains many models of one recipe without run folders: originals and oracles of other seeds, and subset models.

A member is trained bit for bit like a run of its seed, but its rounds are not evaluated, nothing is drawn, and no
folder is made. Each member is stored as one file, `unlearned/members/HASH` under the run; the hash covers all that
decides its bits: recipe, seed, data, the rows it never sees, and the code. So existing members are never trained
again, whatever request they serve, and an interrupted ensemble continues with the missing ones.

No member sees a row that a deletion has taken from the run: it starts from the data of an opened source, see
`unlearning.pipeline.source`, in which those rows are blank; and a purge destroys all members.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedsim.atomic import write_atomically
from fedsim.config.run import HistoryConfig, RunConfig
from fedsim.data.federation import FederatedData
from fedsim.environment import code_in_use
from fedsim.flower.records import Tensors, from_numpy
from fedsim.models.base import Classifier
from fedsim.report.wording import format_duration
from fedsim.runs.simulation import Simulation
from fedsim.training.first_model import build_run_model
from fedsim.training.precision import to_run_format
from unlearning.api.view import View
from unlearning.evaluation.accuracies import right_answers
from unlearning.evaluation.scores import Floats, margins
from unlearning.pipeline.oracle import MEMBERS, recipe_hash
from unlearning.pipeline.source import Source

IntArray = npt.NDArray[np.int64]
Keep = Literal["margins", "logits", "model"]
Part = Literal["train", "test", "unseen"]

_BATCH = 500
_WORTH_A_PROCESS = 16  # members
_REPORTS = 10  # progress lines of an ensemble


@dataclass(frozen=True, eq=False)
class Member:
    """One model: the recipe under a seed, on the source's data without some rows."""

    seed: int
    left_out: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    """Training rows that it never sees, ascending; empty for an original."""


class Kept:
    """The stored results of a member."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def margins(self, part: Part, rows: IntArray) -> Floats:
        """Return the margins of rows (n,) of a part of the data set, (n,); NaN of training rows that nobody holds."""
        return np.asarray(self._tensors[f"margins/{part}"].numpy()[rows], np.float64)

    def right(self, part: Part, rows: IntArray) -> Floats:
        """Return for each of the rows (n,) 1 if its answer is right, else 0, (n,); or the share of right labels."""
        return np.asarray(self._tensors[f"right/{part}"].numpy()[rows], np.float64)

    def logits(self, part: Part, rows: IntArray) -> Floats:
        """Return the logits of rows (n,), (n, C), if they were kept."""
        return np.asarray(self._tensors[f"logits/{part}"].numpy()[rows], np.float64)

    @property
    def seconds(self) -> float:
        """Wall time of its training."""
        return float(self._tensors["seconds"])

    def model(self, source: Source) -> Classifier:
        """Return the member in evaluation mode, if it was kept."""
        model = build_run_model(source.config, source.data.dataset)
        prefix = "model/"
        state = {name.removeprefix(prefix): v for name, v in self._tensors.items() if name.startswith(prefix)}
        model.load_state_dict(state)
        return to_run_format(model, source.config.training, source.device).eval()


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Trained members, each stored in a file."""

    files: list[Path]
    trained: int
    """Number of members that had to be trained now."""

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Kept]:
        """Yield the stored results of each member, one at a time in memory."""
        for file in self.files:
            kept = _read(file)
            assert kept is not None
            yield Kept(kept)


def train_members(
    source: Source,
    members: Sequence[Member],
    keep: frozenset[Keep],
    say: Callable[[str], None] = lambda line: None,
    what: str = "models",
) -> Ensemble:
    """Train the missing members, and return all.

    Parameters
    ----------
    source
        Provides the recipe and the data.
    members
        The members, in the order of the result.
    keep
        "margins" of all samples are kept at any rate, 5 bytes each; "logits" take 4 C bytes each, "model" the size of a
        model per member.
    say
        Receives progress lines.
    what
        Name of the members in these lines.
    """
    config, place = member_config(source.config), source.root / "unlearned" / MEMBERS
    files = [place / member_hash(source, member, keep) for member in members]
    missing = {file: member for file, member in zip(files, members, strict=True) if _read(file) is None}
    begun = time.perf_counter()
    if missing:
        say(f"{what}: {len(missing)} to train, {len(set(files)) - len(missing)} are there")
    try:
        for done, _ in enumerate(_trained(config, source, missing, keep), 1):
            if done < len(missing) and done % -(-len(missing) // _REPORTS) == 0:
                left = (time.perf_counter() - begun) / done * (len(missing) - done)
                say(f"{what}: {done} of {len(missing)} trained; about {format_duration(left)} more")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
    return Ensemble(files, len(missing))


def member_config(config: RunConfig) -> RunConfig:
    """Return a run's configuration for training a member: in one process, without what only a run folder needs."""
    engine = config.engine.model_copy(update={"name": "inprocess"})
    changes = {"eval_every": config.rounds, "eval_clients": "none", "history": HistoryConfig(), "engine": engine}
    return config.model_copy(update=changes)


def member_hash(source: Source, member: Member, keep: frozenset[Keep]) -> str:
    """Return 32 hexadecimal digits that identify a member and what is kept of it."""
    recipe = recipe_hash(source.config.model_copy(update={"seed": member.seed}), source.data)
    rows = hashlib.sha256(np.ascontiguousarray(member.left_out, np.int64).tobytes()).hexdigest()
    told = json.dumps([recipe, rows, sorted(keep - {"margins"}), code_in_use()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def trained_tensors(config: RunConfig, data: FederatedData) -> Tensors:
    """Return the state dict of a run's final model, by the simulation alone."""
    simulation = Simulation(config, data=data)
    with contextlib.closing(simulation.engine()) as engine:
        state = simulation.begin()
        while state.round < config.rounds:
            simulation.step(state, engine)
        return simulation.server.export(state.tensors)


def _train(
    config: RunConfig, data: FederatedData, member: Member, keep: frozenset[Keep], device: torch.device
) -> bytes:
    """Train a member and return its file."""
    config = config.model_copy(update={"seed": member.seed})
    own = data.without(member.left_out) if len(member.left_out) else data
    begun = time.perf_counter()
    tensors = trained_tensors(config, own)
    found: Tensors = {"seconds": torch.tensor(time.perf_counter() - begun)}
    model = build_run_model(config, data.dataset)
    model.load_state_dict(tensors)
    model = to_run_format(model, config.training, device).eval()
    held = {"train": np.sort(data.partition.indices), "test": np.arange(len(data.dataset.y_test))}
    if data.dataset.y_unseen is not None:
        held["unseen"] = np.arange(len(data.dataset.y_unseen))
    for part, rows in held.items():
        labels = getattr(data.dataset, f"y_{part}")
        z = np.full((len(labels), model.classifier.out_features), np.nan)
        z[rows] = _logits(model, data, part, rows)
        margin = np.full(len(labels), np.nan, np.float32)
        if np.isfinite(z[rows]).all():
            margin[rows] = margins(z[rows], labels[rows])
        found[f"margins/{part}"] = torch.from_numpy(margin)
        right = np.zeros(len(labels), np.float32)
        right[rows] = right_answers(z[rows], labels[rows]) if np.isfinite(margin[rows]).all() else 0
        found[f"right/{part}"] = torch.from_numpy(right if data.dataset.has_several_labels else right.astype(np.bool_))
        if "logits" in keep:
            found[f"logits/{part}"] = torch.from_numpy(z.astype(np.float32))
    if "model" in keep:
        found |= {f"model/{name}": value.detach().cpu().contiguous() for name, value in tensors.items()}
    content: bytes = save(found)
    return hashlib.sha256(content).digest() + content


@torch.no_grad()
def _logits(model: Classifier, data: FederatedData, part: str, rows: IntArray) -> Floats:
    dataset, device = data.dataset, model.classifier.weight.device
    x = from_numpy(getattr(dataset, f"x_{part}")[rows]).to(device)
    view = View(x, None, dataset.mean, dataset.std, model.classifier.weight.dtype)
    return np.concatenate([model(batch).double().cpu().numpy() for batch, _ in view.batches(_BATCH, None)])


def _read(file: Path) -> Tensors | None:
    """Return the tensors in the file of a member; None if it is missing or damaged."""
    try:
        content = file.read_bytes()
        return load(content[32:]) if hashlib.sha256(content[32:]).digest() == content[:32] else None
    except (OSError, SafetensorError):
        return None


def _trained(config: RunConfig, source: Source, missing: dict[Path, Member], keep: frozenset[Keep]) -> Iterator[Path]:
    """Train members, and yield the file of each as it is written."""
    workers = num_processes(config, len(missing))
    if workers == 1:
        for file, member in missing.items():
            yield write_atomically(file, _train(config, source.data, member, keep, source.device), folders=True)
        return
    # joblib's processes do not execute the caller's script again, unlike spawned processes of multiprocessing.
    jobs = (
        delayed(_train_in_process)(config, source.data, member, keep, source.device, file)
        for file, member in missing.items()
    )
    yield from Parallel(workers, return_as="generator_unordered")(jobs)


def num_processes(config: RunConfig, models: int) -> int:
    """Return the number of processes for so many members: `engine.num_workers`, or all cores; 1 for a few members.

    A process takes seconds to start.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(config.engine.num_workers or cores // config.engine.threads, models // _WORTH_A_PROCESS))


def _train_in_process(
    config: RunConfig, data: FederatedData, member: Member, keep: frozenset[Keep], device: torch.device, file: Path
) -> Path:
    torch.set_num_threads(config.engine.threads)
    for plugin in config.plugins:
        plugin.admit()
    return write_atomically(file, _train(config, data, member, keep, device), folders=True)
