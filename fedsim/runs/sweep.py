"""Sweeps: runs for all combinations of some options, or for the points of a search, each for several seeds.

All runs of a sweep are in one folder. The same command continues an interrupted sweep, and adds seeds and values to it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fedsim.atomic import write_atomically
from fedsim.config.errors import shown
from fedsim.config.resolve import allow_named, resolve, user_settings
from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.paths import expanded
from fedsim.runs.folder import RunFolder
from fedsim.runs.grid import GridCell, cells, combinations, split_axes
from fedsim.runs.pack import Board, RunJob, pack
from fedsim.runs.reserve import held
from fedsim.runs.search import Search, SearchOutcome, best_yaml, draw, judge, read_range, require_held_out
from fedsim.sealed import Damaged, seal, unseal

_FILE, _LOGS, _BEST = "sweep.json", "logs", "best.yaml"
_AGAIN = "choose another --name"


@dataclass(frozen=True)
class Sweep:
    """A planned sweep; all of its configurations are valid."""

    folder: Path
    layers: Sequence[Mapping[str, Any]]
    """Options that all runs share: the first layer comes from a file, the user has typed the others."""
    cells: Sequence[GridCell]
    configs: Mapping[str, RunConfig]
    """The configuration of each cell, by the cell's name."""
    like: Path | None = None
    """The run folder that the first layer comes from, if any; no run of the sweep uses samples deleted from it."""
    search: Search | None = None
    """The search that draws the points; None if all combinations are run."""

    def slots(self, jobs: int | None) -> list[str | None]:
        """Return a slot for each of `jobs` processes: its value of CUDA_VISIBLE_DEVICES, or None to keep this one.

        By default there is one process per GPU; without GPUs, one per core, or fewer if runs use several threads.
        """
        engine = next(iter(self.configs.values())).engine
        gpus = _gpus() if engine.device == "auto" else []
        cores = max(1, len(os.sched_getaffinity(0)) // engine.threads)
        count = min(jobs or len(gpus) or cores, len(self.cells))
        return [gpus[slot % len(gpus)] if gpus else None for slot in range(count)]


def _gpus() -> list[str]:
    """Return the GPUs that this process sees, by their names in CUDA_VISIBLE_DEVICES."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else list(map(str, range(count)))


@dataclass(frozen=True)
class Swept:
    """The result of `run_sweep`."""

    folder: Path
    finished: Sequence[Path]
    """Folders of the finished runs."""
    failures: Mapping[str, str]
    """Reasons of the failed runs, by run name."""
    logs: Path
    """Folder for the output of failed runs."""


@dataclass(frozen=True)
class Best:
    """The result of a search, and the file with its best point."""

    found: SearchOutcome
    file: Path


def plan(
    base: Mapping[str, Any],
    overrides: Mapping[str, Any],
    seeds: Sequence[int],
    name: str,
    like: Path | None = None,
    search: Search | None = None,
) -> Sweep:
    """Plan a sweep and validate the configuration of each of its runs.

    Parameters
    ----------
    base
        The configuration from a file.
    overrides
        Options, by dotted key; a list is an axis of the sweep.
    seeds
        Seeds for each point.
    name
        Name of the sweep's folder.
    like
        The run folder that `base` comes from, if any.
    search
        Draws points from lists and ranges; without it, all combinations are run.

    Raises
    ------
    FedsimError
        If one of the configurations is invalid.
    """
    if "name" in overrides:
        raise FedsimError("--set name: the runs of a sweep are named by what sets them apart; --name names the sweep")
    allow_named(overrides)
    shared, points = _points(overrides, search)
    for point in points:
        allow_named(point)
    layers, planned = [base, shared], cells(points, seeds)
    configs = {cell.name: resolve(user_settings(), *layers, cell.options) for cell in planned}
    if search is not None:
        require_held_out(search.metric, configs)
    folder = expanded(next(iter(configs.values())).out) / name
    resolve({"name": name})  # a sweep's name obeys the same rule as a run's
    return Sweep(folder, layers, planned, configs, like, search)


def _points(overrides: Mapping[str, Any], search: Search | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the options that all runs share, and the other options of each point."""
    ranges = {key: found for key, value in overrides.items() if (found := read_range(key, value)) is not None}
    if ranges and search is None:
        key = next(iter(ranges))
        raise FedsimError(
            f"--set {key}={overrides[key]}: a range is for a search; give --tune validation/accuracy, too, or values "
            f"to try, as {key}=[VALUE,VALUE]"
        )
    shared, lists = split_axes({key: value for key, value in overrides.items() if key not in ranges})
    if search is None:
        return shared, combinations(lists)
    axes = {key: ranges.get(key) or lists[key] for key in overrides if key in ranges or key in lists}
    if not axes:
        raise FedsimError("--tune: there is nothing to choose from; give ranges, such as --set training.lr=0.001..1")
    return shared, draw(axes, search.trials)


def read_jobs(text: str | None, ray_address: str | None) -> int | Literal["ray"] | None:
    """Parse --jobs: a number of runs at a time, "ray", or None, which means as many as fit this machine.

    Raises
    ------
    FedsimError
        If the text is neither a positive number nor "ray", or there is an address without "ray".
    """
    if ray_address is not None and text != "ray":
        raise FedsimError("--ray-address: is for runs on a cluster; give --jobs ray, too")
    if text is None or text == "ray":
        return None if text is None else "ray"
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise FedsimError(f"--jobs {text}: must be at least 1, or ray for a task of Ray's for each run")
    return int(text)


def run_sweep(sweep: Sweep, jobs: int | Literal["ray"] | None, board: Board, ray_address: str | None = None) -> Swept:
    """Execute all runs of a sweep; existing runs continue from their last checkpoints.

    Parameters
    ----------
    sweep
        The plan.
    jobs
        Number of runs at a time, each in a process; None: as many as fit this machine; "ray": tasks on a Ray cluster.
    board
        Shows the progress.
    ray_address
        Address of the Ray cluster; by default the user's setting engine.ray_address, or a new Ray on this machine.

    Raises
    ------
    FedsimError
        If the folder is not that of a sweep, or contains a run of the same name with other options.
    """
    packer = _packer(sweep, jobs, ray_address)
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
        failures = packer(todo, board)
        if logs.is_dir() and not any(logs.iterdir()):
            logs.rmdir()
    finished = [folder / cell.name for cell in sweep.cells if cell.name not in failures]
    return Swept(folder, finished, failures, logs)


def keep_best(sweep: Sweep, search: Search) -> Best:
    """Write the best point of a finished search as a configuration file, `best.yaml` in the sweep's folder.

    Raises
    ------
    FedsimError
        If no point has finished runs for all seeds.
    """
    runs = [RunFolder.open(sweep.folder / cell.name) for cell in sweep.cells if (sweep.folder / cell.name).exists()]
    found = judge(runs, search.metric, len({cell.options["seed"] for cell in sweep.cells}))
    config = sweep.configs[found.groups[0].runs[0].path.name]
    file = write_atomically(sweep.folder / _BEST, best_yaml(found, search.metric, config).encode())
    return Best(found, file)


def _packer(
    sweep: Sweep, jobs: int | Literal["ray"] | None, address: str | None
) -> Callable[[Sequence[RunJob], Board], dict[str, str]]:
    """Return the function that executes jobs; Ray is connected here, so errors come before any work."""
    if jobs == "ray":
        from fedsim.runs.pack_ray import RayPacker  # import Ray only when needed

        engines = {name: config.engine for name, config in sweep.configs.items()}
        return RayPacker(engines, address or next(iter(engines.values())).ray_address).pack
    slots = sweep.slots(jobs)
    return lambda todo, board: pack(todo, slots, board)


def _job(sweep: Sweep, cell: GridCell, log: Path) -> RunJob:
    machine: dict[str, Any] = {"engine.ray_address": None}  # for the sweep, not for a run
    if sweep.configs[cell.name].engine.name == "auto":  # other runs use the remaining cores
        machine["engine.name"] = "inprocess"
    typed = [*sweep.layers[1:], cell.options]
    device = {"engine.device": sweep.configs[cell.name].engine.device}
    return RunJob(
        cell.name, sweep.folder / cell.name, [sweep.layers[0], *typed, machine], typed, log, device, sweep.like
    )


def _is_done(folder: Path) -> bool:
    try:
        return folder.exists() and RunFolder.open(folder).status in ("finished", "diverged")
    except FedsimError:  # its process will report the error
        return False


def _keep_plan(sweep: Sweep) -> None:
    """Record the options of each run name; refuse if a name is recorded with other options.

    Seeds and values may be added to a sweep; the options of existing runs do not change.
    """
    path = sweep.folder / _FILE
    if sweep.folder.exists() and not path.is_file():
        raise FedsimError(f"{sweep.folder}: exists already and is not a sweep; {_AGAIN}")
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
    write_atomically(path, seal(json.dumps({"runs": known}, indent=1)), folders=True)


def _record(config: RunConfig) -> dict[str, Any]:
    """Return all options that decide the result of a run, as JSON values."""
    found = {**config.recipe(), "data.name": config.data.name, "rounds": config.rounds}
    record: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return record


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads(unseal(path.read_bytes(), required=True))["runs"]
        return {str(name): dict(options) for name, options in runs.items()}
    except (OSError, Damaged, ValueError, KeyError, TypeError, AttributeError):
        raise FedsimError(f"{path}: cannot be read, or was changed; {_AGAIN}") from None
