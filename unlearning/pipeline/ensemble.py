"""Trains many models of one recipe without run folders: originals and oracles of other seeds, and subset models.

A member is trained bit for bit like a run of its seed, but its rounds are not evaluated, nothing is drawn, and no
folder is made. If it is much faster, many members are trained side by side, with weights that are equal to those of
the runs up to rounding, see `unlearning.pipeline.members`. Each member is stored as one file, `unlearned/members/HASH`
under the run. The hash covers everything that determines its bits: recipe, seed, data, the rows it never sees, the way
of training, and the code. So existing members are never trained again, for any request, and an interrupted ensemble
continues with the missing ones.

No member sees a row that a deletion has taken from the run: it starts from the data of an opened source, see
`unlearning.pipeline.source`, in which those rows are blank; and a purge destroys all members.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from fedsim.training.first_model import build_run_model
from fedsim.training.precision import to_run_format
from unlearning.api.view import View
from unlearning.evaluation.accuracies import right_answers
from unlearning.evaluation.scores import Floats, margins
from unlearning.pipeline.members import (
    side_by_side_gain,
    trained_side_by_side,
    trained_tensors,
    with_common_data,
)
from unlearning.pipeline.oracle import MEMBERS, recipe_hash
from unlearning.pipeline.source import Source

IntArray = npt.NDArray[np.int64]
Keep = Literal["margins", "logits", "model"]
Part = Literal["train", "test", "unseen"]

_BATCH = 500
_WORTH_A_PROCESS = 16  # members
_WORTH_COMPANY = 8  # members; with fewer, none are trained side by side
_MUCH_FASTER = 1.5
"""Speed-up factor; below it, members stay equal to the runs of their seeds, bit for bit."""
_WIDTH = 50  # members that are trained side by side
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
        """Return the margins of rows (n,) of a part of the data set, (n,).

        NaN for training rows that no client holds.
        """
        return np.asarray(self._tensors[f"margins/{part}"].numpy()[rows], np.float64)

    def right(self, part: Part, rows: IntArray) -> Floats:
        """Return for each of the rows (n,) 1 if its prediction is right, else 0, (n,); or the share of right labels."""
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
        "margins" of all samples are always kept, 5 bytes each; "logits" take 4 C bytes each, "model" the size of a
        model per member.
    say
        Receives progress lines.
    what
        Name of the members in these lines.
    """
    config = member_config(source.config)
    place = source.root / "unlearned" / MEMBERS
    ways = {way: [place / member_hash(source, member, keep, way) for member in members] for way in (False, True)}
    side_by_side = _side_by_side(config, source, members, ways)
    files = ways[side_by_side]
    missing = {file: member for file, member in zip(files, members, strict=True) if _read(file) is None}
    begun = time.perf_counter()
    if missing:
        how = ", side by side" if side_by_side else ""
        say(f"{what}: {len(missing)} to train{how}, {len(set(files)) - len(missing)} are there")
    try:
        for done, _ in enumerate(_trained(config, source, missing, keep, side_by_side), 1):
            if done < len(missing) and done % -(-len(missing) // _REPORTS) == 0:
                left = (time.perf_counter() - begun) / done * (len(missing) - done)
                say(f"{what}: {done} of {len(missing)} trained; about {format_duration(left)} more")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command continues from here") from None
    return Ensemble(files, len(missing))


def member_config(config: RunConfig) -> RunConfig:
    """Return a run's configuration for training a member: in one process, without what only a run folder needs."""
    engine = config.engine.model_copy(update={"name": "inprocess"})
    changes = {"eval_every": config.rounds, "eval_clients": "none", "history": HistoryConfig(), "engine": engine}
    return config.model_copy(update=changes)


def _side_by_side(
    config: RunConfig, source: Source, members: Sequence[Member], ways: Mapping[bool, Sequence[Path]]
) -> bool:
    """Return whether to train members side by side: as existing members were trained, otherwise if it is much faster.

    `ways` are the members' files for training one by one, and side by side.
    """
    alone, together = (sum(file.exists() for file in ways[way]) for way in (False, True))
    if alone or together:
        return together > alone
    if len(members) < _WORTH_COMPANY:
        return False
    seeds = [config.model_copy(update={"seed": member.seed}) for member in members[:2]]
    data = with_common_data(source.data, [member.left_out for member in members[:2]])
    return side_by_side_gain(seeds, data) > _MUCH_FASTER


def member_hash(source: Source, member: Member, keep: frozenset[Keep], side_by_side: bool = False) -> str:
    """Return 32 hexadecimal digits that identify a member, how it is trained, and what is kept of it."""
    recipe = recipe_hash(source.config.model_copy(update={"seed": member.seed}), source.data)
    rows = hashlib.sha256(np.ascontiguousarray(member.left_out, np.int64).tobytes()).hexdigest()
    way = ["side by side"] if side_by_side else []
    told = json.dumps([recipe, rows, sorted(keep - {"margins"}), code_in_use(), *way], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _train(
    config: RunConfig, data: FederatedData, members: Sequence[Member], keep: frozenset[Keep], device: torch.device
) -> list[bytes]:
    """Train one member, or several side by side, and return their files."""
    configs = [config.model_copy(update={"seed": member.seed}) for member in members]
    begun = time.perf_counter()
    if len(members) == 1:
        (member,) = members
        trained = [trained_tensors(configs[0], data.without(member.left_out) if len(member.left_out) else data)]
    else:
        trained = trained_side_by_side(configs, with_common_data(data, [member.left_out for member in members]))
    seconds = (time.perf_counter() - begun) / len(members)
    return [_content(one, data, tensors, keep, device, seconds) for one, tensors in zip(configs, trained, strict=True)]


def _content(
    config: RunConfig, data: FederatedData, tensors: Tensors, keep: frozenset[Keep], device: torch.device,
    seconds: float,
) -> bytes:  # fmt: skip
    """Return the file of a member."""
    found: Tensors = {"seconds": torch.tensor(seconds)}
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


def _trained(
    config: RunConfig, source: Source, missing: dict[Path, Member], keep: frozenset[Keep], side_by_side: bool
) -> Iterator[Path]:
    """Train members, and yield the file of each as it is written."""
    workers = num_processes(config, len(missing))
    size = max(1, min(_WIDTH, -(-len(missing) // workers))) if side_by_side else 1
    pairs = list(missing.items())
    shards = [dict(pairs[begin : begin + size]) for begin in range(0, len(pairs), size)]
    if workers == 1:
        for shard in shards:
            yield from _write(config, source.data, shard, keep, source.device)
        return
    # joblib's processes do not execute the caller's script again, unlike spawned processes of multiprocessing.
    jobs = (delayed(_write_in_process)(config, source.data, shard, keep, source.device) for shard in shards)
    for files in Parallel(workers, return_as="generator_unordered")(jobs):
        yield from files


def num_processes(config: RunConfig, models: int) -> int:
    """Return the number of processes that train the members: `engine.num_workers`, or all cores; 1 for few members.

    A process takes seconds to start.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(config.engine.num_workers or cores // config.engine.threads, models // _WORTH_A_PROCESS))


def _write_in_process(
    config: RunConfig, data: FederatedData, shard: dict[Path, Member], keep: frozenset[Keep], device: torch.device
) -> list[Path]:
    torch.set_num_threads(config.engine.threads)
    for plugin in config.plugins:
        plugin.admit()
    return _write(config, data, shard, keep, device)


def _write(
    config: RunConfig, data: FederatedData, shard: dict[Path, Member], keep: frozenset[Keep], device: torch.device
) -> list[Path]:
    """Train members, side by side if there are several, and write their files."""
    contents = _train(config, data, list(shard.values()), keep, device)
    return [write_atomically(file, content, folders=True) for file, content in zip(shard, contents, strict=True)]
