"""Many runs: every combination of some options, for several seeds, in one folder that the same command goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedsim.atomic import write_atomically
from fedsim.config.errors import shown
from fedsim.config.resolve import allow_named, resolve, user_settings
from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.paths import expanded
from fedsim.runs.folder import RunFolder
from fedsim.runs.grid import GridCell, cells, split_axes
from fedsim.runs.pack import Board, RunJob, pack
from fedsim.runs.reserve import held
from fedsim.sealed import Damaged, seal, unseal

_FILE, _LOGS = "sweep.json", "logs"
_AGAIN = "choose another --name"


@dataclass(frozen=True)
class Sweep:
    """A sweep that has been planned: every configuration in it is a good one."""

    folder: Path
    layers: Sequence[Mapping[str, Any]]
    """What all runs share, the first of them a file's, the others typed by the user."""
    cells: Sequence[GridCell]
    configs: Mapping[str, RunConfig]
    """Of each cell, by its name."""
    like: Path | None = None
    """The run folder that the first layer is from: what was deleted from it, no run of the sweep brings back."""

    def slots(self, jobs: int | None) -> list[str | None]:
        """Return what `jobs` processes compute on; by default one for each GPU, or for each core where there is none.

        Raises
        ------
        FedsimError
            If `jobs` is none.
        """
        if jobs is not None and jobs < 1:
            raise FedsimError(f"--jobs {jobs}: must be at least 1")
        engine = next(iter(self.configs.values())).engine
        gpus = _gpus() if engine.device == "auto" else []
        cores = max(1, len(os.sched_getaffinity(0)) // engine.threads)
        count = min(jobs or len(gpus) or cores, len(self.cells))
        return [gpus[slot % len(gpus)] if gpus else None for slot in range(count)]


def _gpus() -> list[str]:
    """Return the GPUs of this process, as CUDA_VISIBLE_DEVICES calls them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else list(map(str, range(count)))


@dataclass(frozen=True)
class Swept:
    """What `run_sweep` returns."""

    folder: Path
    finished: Sequence[Path]
    """The folders of the runs that are finished."""
    failures: Mapping[str, str]
    """Why the others are not, by name."""
    logs: Path
    """The folder of what failed runs have printed."""


def plan(
    base: Mapping[str, Any], overrides: Mapping[str, Any], seeds: Sequence[int], name: str, like: Path | None = None
) -> Sweep:
    """Return the sweep of the lists in `overrides`, over a file's configuration `base`, having tried each run's.

    `like` is the run folder that `base` is from, if it is.

    Raises
    ------
    FedsimError
        If one of the configurations is bad.
    """
    if "name" in overrides:
        raise FedsimError("--set name: the runs of a sweep are named by what sets them apart; --name names the sweep")
    allow_named(overrides)
    shared, axes = split_axes(overrides)
    for key, values in axes.items():
        for value in values:
            allow_named({key: value})
    layers, planned = [base, shared], cells(axes, seeds)
    configs = {cell.name: resolve(user_settings(), *layers, cell.options) for cell in planned}
    folder = expanded(next(iter(configs.values())).out) / name
    resolve({"name": name})  # the rule for a run's own
    return Sweep(folder, layers, planned, configs, like)


def run_sweep(sweep: Sweep, jobs: int | None, board: Board) -> Swept:
    """Bring the runs of a sweep to their ends, those that are there from their last checkpoints.

    Raises
    ------
    FedsimError
        If the folder holds something else, or the same names with other options.
    """
    slots = sweep.slots(jobs)
    folder, logs = sweep.folder, sweep.folder / _LOGS
    with held(folder, remedy="choose another --out"):
        _keep_plan(sweep)
        todo = [
            _job(sweep, cell, logs / f"{cell.name}.log") for cell in sweep.cells if not _is_done(folder / cell.name)
        ]
        waiting = {job.name for job in todo}
        for cell in sweep.cells:
            if cell.name not in waiting:
                board.ended(cell.name, None)
        failures = pack(todo, slots, board)
        if logs.is_dir() and not any(logs.iterdir()):
            logs.rmdir()
    finished = [folder / cell.name for cell in sweep.cells if cell.name not in failures]
    return Swept(folder, finished, failures, logs)


def _job(sweep: Sweep, cell: GridCell, log: Path) -> RunJob:
    machine: dict[str, Any] = {"out": str(sweep.folder), "name": cell.name}
    if sweep.configs[cell.name].engine.name == "auto":  # the cores are the other runs'
        machine["engine.name"] = "inprocess"
    typed = [*sweep.layers[1:], cell.options]
    device = {"engine.device": sweep.configs[cell.name].engine.device}
    return RunJob(
        cell.name, sweep.folder / cell.name, [sweep.layers[0], *typed, machine], typed, log, device, sweep.like
    )


def _is_done(folder: Path) -> bool:
    try:
        return folder.exists() and RunFolder.open(folder).status in ("finished", "diverged")
    except FedsimError:  # its process will tell what is wrong with it
        return False


def _keep_plan(sweep: Sweep) -> None:
    """Record what each name stands for, having refused to take another's name.

    More seeds and more values may join a sweep; what is there keeps its options.
    """
    path = sweep.folder / _FILE
    if sweep.folder.exists() and not path.is_file():
        raise FedsimError(f"{sweep.folder}: exists already and is no sweep; {_AGAIN}")
    known = _read(path) if path.is_file() else {}
    for name, config in sweep.configs.items():
        record = _record(config)
        before = known.setdefault(name, record)
        for key in sorted(record.keys() | before.keys()):
            if record.get(key) != before.get(key):
                raise FedsimError(
                    f"{sweep.folder}: {name} in it has {key}={shown(before.get(key))}, not {shown(record.get(key))}; "
                    f"{_AGAIN}"
                )
    write_atomically(path, seal(json.dumps({"runs": known}, indent=1)))


def _record(config: RunConfig) -> dict[str, Any]:
    """Return all that decides what a run comes to, as JSON has it."""
    found = {**config.recipe(), "data.name": config.data.name, "rounds": config.rounds}
    record: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return record


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads(unseal(path.read_bytes(), required=True))["runs"]
        return {str(name): dict(options) for name, options in runs.items()}
    except (OSError, Damaged, ValueError, KeyError, TypeError, AttributeError):
        raise FedsimError(f"{path}: cannot be read, or was changed; {_AGAIN}") from None
