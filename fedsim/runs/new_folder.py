"""Reserves the folder of a new run, and creates it atomically."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

from fedsim.atomic import write_atomically
from fedsim.config.run import RunConfig
from fedsim.environment import environment
from fedsim.errors import FedsimError, InUse
from fedsim.paths import expanded
from fedsim.plugins import plugin_of, short_name
from fedsim.runs.frozen import freeze, write_partition
from fedsim.runs.reserve import held, new_content, sweep
from fedsim.runs.rounds import disk_cause
from fedsim.runs.simulation import Simulation
from fedsim.sealed import seal, sha256

_ELSEWHERE = "choose another --out"


@contextlib.contextmanager
def reserved(config: RunConfig, force: bool) -> Iterator[Path]:
    """Hold the lock on the folder of a new run; refuse a folder that must not be created or replaced."""
    dataset = Path(config.data.name.partition(":")[2] or config.data.name).stem
    dataset = short_name(config.data.name) if plugin_of(config.data.name) else dataset
    name = config.name or f"{short_name(config.strategy.name)}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    first = expanded(config.out) / name
    sweep(first.parent)
    if config.name is not None:
        with held(first, remedy=_ELSEWHERE):
            _require_free(first, force)
            yield first
        return
    for number in itertools.count(1):  # several runs may start in the same second
        folder = first if number == 1 else first.with_name(f"{name}-{number}")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(folder, remedy=_ELSEWHERE))
            except InUse:
                continue
            if not folder.exists():
                yield folder
                return


def _require_free(folder: Path, force: bool) -> None:
    if folder.exists() and not force:
        raise FedsimError(f"{folder}: exists already; choose another --name, or replace it with --force")
    if folder.exists() and not (folder / "config.yaml").is_file():
        raise FedsimError(f"{folder}: is no run folder, so --force does not replace it; choose another --name")


def make_folder(folder: Path, simulation: Simulation, frozen: bool = False) -> None:
    """Create a run folder with configuration, environment and partition atomically; an old one is replaced.

    With `frozen`, later commands use exactly the simulation's data and do not derive it from the configuration.
    """
    try:
        with new_content(folder) as temporary:
            write_atomically(temporary / "config.yaml", simulation.config.to_yaml().encode())
            made_on = environment(simulation.worker.device) | {"data_sha256": simulation.data.content_hash}
            write_partition(temporary, simulation.data)
            if frozen:
                freeze(temporary, simulation.data)
            made_on["files"] = {name: sha256(temporary / name) for name in ("config.yaml", "partition.npz")}
            write_atomically(temporary / "environment.json", seal(json.dumps(made_on, indent=1)))
    except (OSError, FedsimError) as error:
        raise FedsimError(f"{folder}: cannot be written ({disk_cause(error)}); {_ELSEWHERE}") from None
