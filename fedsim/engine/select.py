"""Resolve `auto`: which engine runs, and whether a chunk's clients are trained together."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from fedsim.atomic import only_writer, write_atomically
from fedsim.config.run import EngineConfig, RunConfig
from fedsim.engine.forks import can_fork
from fedsim.engine.local import cores
from fedsim.engine.worker import Worker, resolve_device
from fedsim.errors import FedsimError
from fedsim.federated.types import State
from fedsim.flower.records import Tensors
from fedsim.plugins import plugin_of
from fedsim.training.trainer import Trainer

_CHUNK = {"always": 50, "never": 5}
_WORTHWHILE = 1.1  # vectorised training must be this much faster, so that noise does not decide
_IMPOSSIBLE = 0.0  # the speed-up if vectorised training fails
_TRIED_CLIENTS = 20
_TRIED_BATCHES = 2


def choose_engine(config: RunConfig) -> tuple[RunConfig, str]:
    """Return the configuration with a definite engine, and the engine's name with the reason for it.

    Raises
    ------
    FedsimError
        If the configured device or engine is not available here.
    """
    engine = config.engine
    if engine.device != "auto":
        _require_device(engine)
    name, why = engine.name, "as asked"
    if name == "auto":
        for_ray = [o for o in ("num_workers", "ray_address", "gpus_per_worker", "dashboard") if getattr(engine, o)]
        if for_ray and importlib.util.find_spec("ray") is None:
            raise FedsimError(f"engine.{for_ray[0]}: needs Ray; install it with: pip install 'ray[default]'")
        alone = _why_alone(engine)
        name = "ray" if for_ray else "inprocess" if alone else "auto"
        why = f"engine.{for_ray[0]} is set" if for_ray else alone or "two rounds in this process decide on the others"
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise FedsimError("engine.name: ray is not installed; install it with: pip install 'ray[default]'")
    if name == "local" and (alone := _why_alone(engine)) and engine.num_workers is None:
        raise FedsimError(f"engine.name: local has no use here, as {alone}; use inprocess, or set engine.num_workers")
    return config.model_copy(update={"engine": engine.model_copy(update={"name": name})}), f"{name} ({why})"


def _why_alone(engine: EngineConfig) -> str:
    """Return why no processes can be forked on this machine; "" if they can."""
    if resolve_device(engine.device).type != "cpu":
        return "it computes on a GPU"
    if not can_fork():
        return "this system does not fork"
    return "a worker takes all cores" if cores() // engine.threads < 2 else ""


def _require_device(engine: EngineConfig) -> None:
    try:
        device = torch.device(engine.device)
    except RuntimeError:
        raise FedsimError(f"engine.device: must be auto, cpu, cuda or cuda:N, got {engine.device!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FedsimError(
            f"engine.device: {engine.device} asked for, but {torch.cuda.device_count()} GPUs are here; use auto or cpu"
        )


def choose_vectorize(config: RunConfig, worker: Worker, start: State, constants: Tensors) -> tuple[RunConfig, str]:
    """Return the configuration with a definite `training.vectorize` and chunk size, and the reason.

    `auto` measures both modes once on this device, from the global state `start` and the server's `constants`. It
    stores the result for this machine, so that a run repeats. A user's own model is also measured for `always`.

    Raises
    ------
    FedsimError
        If `training.vectorize` is `always` and the model cannot be vectorised.
    """
    mode, why = config.training.vectorize, "as asked"
    if mode == "auto" or (mode == "always" and plugin_of(config.model.name)):
        speedup = _remembered_speedup(config, worker, start, constants)
        if mode == "always" and speedup == _IMPOSSIBLE:
            raise FedsimError(
                f"training.vectorize: always: clients cannot train {config.model.name} at once, since torch.func.vmap "
                "does not know all of its operations; use auto or never"
            )
    if mode == "auto":
        mode = "always" if speedup > _WORTHWHILE else "never"
        why = f"clients trained at once take {1 / speedup:.2f} of the time of one after another" if speedup else (
            "torch.func.vmap does not know all operations of the model"
        )  # fmt: skip
    chunk = config.training.chunk or _CHUNK[mode]
    training = config.training.model_copy(update={"vectorize": mode, "chunk": chunk})
    return config.model_copy(update={"training": training}), f"{mode} ({why}), {chunk} clients a chunk"


def _remembered_speedup(config: RunConfig, worker: Worker, start: State, constants: Tensors) -> float:
    device = torch.cuda.get_device_name(worker.device) if worker.device.type == "cuda" else "cpu"
    data = worker.data.dataset
    told = [
        *(section.model_dump() for section in (config.model, config.strategy, config.training)),
        (data.input_shape, data.num_classes, min(config.cohort_size, _TRIED_CLIENTS)),
        (config.engine.threads, device, torch.__version__, [file.sha256 for file in config.plugins]),
    ]
    key = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsim" / "cohort.json"
    speedup = _known_speedups(path).get(key)
    if speedup is None:
        speedup = measure_speedup(config, worker, start, constants)
        with contextlib.suppress(FedsimError), only_writer(path.parent):  # on failure, the next run measures again
            known = _known_speedups(path)  # read again, for entries that other runs have added meanwhile
            speedup = known.setdefault(key, speedup)
            write_atomically(path, json.dumps(known).encode())
    return speedup


def _known_speedups(path: Path) -> dict[str, float]:
    """Return the measurements in a file by key; none if the file holds anything else."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        return {str(k): float(v) for k, v in dict(json.loads(path.read_text(encoding="utf-8"))).items()}
    return {}


def measure_speedup(config: RunConfig, worker: Worker, start: State, constants: Tensors) -> float:
    """Return how many times faster a few batches of some clients train together than one after another.

    The result is 0 if training together fails.
    """
    sizes = worker.data.at(1).sizes
    clients = np.argsort(-sizes, kind="stable")[: min(config.cohort_size, _TRIED_CLIENTS)].tolist()
    if len(clients) < 2:
        return 1.0
    rows = _TRIED_BATCHES * config.training.batch_size
    jobs = [worker.job(c, worker.client.personal(c, start), 1, rows) for c in clients if sizes[c]]
    steps = None if config.training.steps is None else _TRIED_BATCHES
    trainer = Trainer(
        worker.client, worker.train_set, config.training.model_copy(update={"epochs": 1, "steps": steps}), config.seed,
        worker.trainer.batch_coupling, worker.trainer.private,
    )  # fmt: skip

    def seconds(together: bool) -> float:
        begun = time.perf_counter()
        for group in [jobs] if together else [[job] for job in jobs]:
            trainer.train(start, constants, group, 0)
        if worker.device.type == "cuda":
            torch.cuda.synchronize(worker.device)
        return time.perf_counter() - begun

    def best(together: bool) -> float:
        seconds(together)  # the first call includes one-time costs
        return min(seconds(together) for _ in range(2))

    alone = best(together=False)
    try:
        return alone / best(together=True)
    except RuntimeError:  # an operation without vmap, or too little memory
        return _IMPOSSIBLE
