"""Many runs: every combination of some options, for several seeds, in one folder that the same command goes on with."""

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
    """A sweep that has been planned: every configuration in it is a good one."""

    folder: Path
    layers: Sequence[Mapping[str, Any]]
    """What all runs share, the first of them a file's, the others typed by the user."""
    cells: Sequence[GridCell]
    configs: Mapping[str, RunConfig]
    """Of each cell, by its name."""
    like: Path | None = None
    """The run folder that the first layer is from: what was deleted from it, no run of the sweep brings back."""
    search: Search | None = None
    """What its points are drawn for; None where all combinations are run."""

    def slots(self, jobs: int | None) -> list[str | None]:
        """Return what `jobs` processes compute on; by default one for each GPU, or each core where there is none."""
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


@dataclass(frozen=True)
class Best:
    """What a search has come to, and the file of its best point."""

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
    """Return the sweep of the lists in `overrides`, over a file's configuration `base`, having tried each run's.

    `like` is the run folder that `base` is from, if it is. A `search` draws points of the lists and ranges instead of
    running every combination.

    Raises
    ------
    FedsimError
        If one of the configurations is bad.
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
    resolve({"name": name})  # the rule for a run's own
    return Sweep(folder, layers, planned, configs, like, search)


def _points(overrides: Mapping[str, Any], search: Search | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what all runs share, and the options of each that are not the same for all."""
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
    """Return how runs are packed: so many at a time, on Ray, or as it fits this machine.

    Raises
    ------
    FedsimError
        If the text is no such thing, or an address comes without Ray.
    """
    if ray_address is not None and text != "ray":
        raise FedsimError("--ray-address: is for runs on a cluster; give --jobs ray, too")
    if text is None or text == "ray":
        return None if text is None else "ray"
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise FedsimError(f"--jobs {text}: must be at least 1, or ray for a task of Ray's for each run")
    return int(text)


def run_sweep(sweep: Sweep, jobs: int | Literal["ray"] | None, board: Board, ray_address: str | None = None) -> Swept:
    """Bring the runs of a sweep to their ends, those that are there from their last checkpoints.

    They run as so many processes, by default as many as fit this machine, or on Ray: on the cluster at `ray_address`,
    or else the user's own setting engine.ray_address, or else on one that is started here.

    Raises
    ------
    FedsimError
        If the folder holds something else, or the same names with other options.
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
    """Write the best point of a search that was run as a configuration, `best.yaml` in its folder.

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
    """Return what brings jobs to their ends; what it needs is there then."""
    if jobs == "ray":
        from fedsim.runs.pack_ray import RayPacker  # Ray is imported where it is wanted

        engines = {name: config.engine for name, config in sweep.configs.items()}
        return RayPacker(engines, address or next(iter(engines.values())).ray_address).pack
    slots = sweep.slots(jobs)
    return lambda todo, board: pack(todo, slots, board)


def _job(sweep: Sweep, cell: GridCell, log: Path) -> RunJob:
    machine: dict[str, Any] = {"engine.ray_address": None}  # it is the sweep's, not a run's
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
    write_atomically(path, seal(json.dumps({"runs": known}, indent=1)), folders=True)


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
