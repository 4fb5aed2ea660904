"""From a configuration to a finished run folder; and on from where one was left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.atomic import write_atomically
from fedsim.checkpoint import Checkpoint, load_latest, load_model, save_model
from fedsim.config import RunConfig, find_config, read_yaml, resolve
from fedsim.data.datasets import load_dataset
from fedsim.engine.base import Engine
from fedsim.environment import environment, versions
from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.progress import Progress
from fedsim.report.run_folder import RunFolder
from fedsim.simulation import Metrics, RunState, Simulation, TooFewReplies


@dataclass(frozen=True)
class RunResult:
    """What `run` returns."""

    folder: Path
    config: RunConfig
    """Resolved: it reruns the run."""
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl: {"round", "time_s", "metrics"}."""
    final: Metrics
    """The newest value of each metric."""
    model: Classifier
    """The final global model, in evaluation mode."""


def run(
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run a federation and return its metrics and model.

    Parameters
    ----------
    config
        A configuration, the same as a mapping, the name of a preset or the path of a YAML file.
    overrides
        Dotted keys over it, such as `{"training.lr": 0.1}`.
    force
        Replace an existing run of the same name.

    Raises
    ------
    FedsimError
        If the configuration or the data is bad; nothing was written then.
    """
    if isinstance(config, RunConfig):
        base: Mapping[str, Any] = config.model_dump()
    else:
        base = config if isinstance(config, Mapping) else find_config(str(config)) if config is not None else {}
    return run_layers([base, overrides or {}], force=force, progress=progress)


def run_layers(layers: Sequence[Mapping[str, Any]], *, force: bool, progress: Progress | None) -> RunResult:
    """Run the configuration that the layers make, see `fedsim.config.resolve`, in a new run folder."""
    config = resolve(*layers)
    dataset = Path(config.data.name.removeprefix("npz:")).stem
    folder = config.out / (config.name or f"{config.strategy.name}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and not force:
        raise FedsimError(f"{folder}: exists already; choose another --name, or replace it with --force")
    if folder.exists() and not (folder / "config.yaml").is_file():
        raise FedsimError(f"{folder}: is no run folder, so --force does not replace it; choose another --name")
    simulation = Simulation(config, progress)
    if folder.exists():
        shutil.rmtree(folder)
    try:
        _write_folder(folder, simulation)
    except (OSError, FedsimError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise FedsimError(f"{folder}: cannot be written ({_cause(error)}); choose another --out") from None
    return _finish(folder, simulation, None)


def resume(folder: str | Path, progress: Progress | None = None) -> RunResult:
    """Continue a run that was stopped or killed, from its last checkpoint, to the bits it would have come to.

    Raises
    ------
    FedsimError
        If `folder` is no run, or its checkpoint is damaged.
    """
    path = RunFolder.open(folder).path
    config = resolve(read_yaml(path / "config.yaml"))
    return _finish(path, Simulation(config, progress), load_latest(path))


def load_run_model(folder: str | Path) -> Classifier:
    """Return the final global model of a finished run, in evaluation mode."""
    path = RunFolder.open(folder).path
    config = resolve(read_yaml(path / "config.yaml"))
    dataset = load_dataset(config.data, config.seed)
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.seed)
    model.load_state_dict(load_model(path / "model.safetensors"))
    return model.eval()


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _finish(folder: Path, simulation: Simulation, checkpoint: Checkpoint | None) -> RunResult:
    """Run what is left of a run, and write all of its folder."""
    try:
        state = _run_rounds(folder, simulation, checkpoint)
        exported = simulation.server.export(state.tensors)
        save_model(folder / "model.safetensors", exported)
        _write_summary(folder, simulation, state, "finished")
        _write_pictures(folder)
    except OSError as error:
        raise FedsimError(
            f"{folder}: cannot be written ({_cause(error)}); free some room, then: fedsim run --resume {folder}"
        ) from None
    model = simulation.new_model(simulation.config)
    model.load_state_dict({name: value.cpu() for name, value in exported.items()})
    return RunResult(folder, simulation.config, state.metrics, _newest(state.metrics), model.eval())


def _run_rounds(folder: Path, simulation: Simulation, checkpoint: Checkpoint | None) -> RunState:
    config = simulation.config
    engine = simulation.engine()
    state = simulation.begin()
    saved = 0
    try:
        if checkpoint is not None:
            state = simulation.restore(checkpoint, engine)
            saved = state.round
        (folder / "summary.json").unlink(missing_ok=True)
        # What was logged after the checkpoint is run, and logged, again.
        write_atomically(folder / "metrics.jsonl", "".join(map(_line, state.metrics)).encode())
        simulation.progress.begin(config, simulation.choices, state.round)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
            while state.round < config.rounds:
                metrics = simulation.step(state, engine)
                log.write(_line(state.metrics[-1]))
                log.flush()
                if state.round % config.checkpoint_every == 0 or state.round == config.rounds:
                    simulation.checkpoint(state, engine).save(folder)
                    saved = state.round
                simulation.progress.round_done(state.round, metrics)
    except BaseException as error:
        _leave(folder, simulation, state, engine, saved, error)
        raise
    finally:
        engine.close()
        simulation.progress.end()
    return state


def _leave(
    folder: Path, simulation: Simulation, state: RunState, engine: Engine, saved: int, error: BaseException
) -> None:
    """Keep the last whole round of a run that ends early."""
    interrupted = isinstance(error, KeyboardInterrupt)
    status = "stopped" if interrupted or isinstance(error, TooFewReplies) else "failed"
    engine.states.discard()
    # The disk may be what failed; the error itself is on its way up.
    with contextlib.suppress(FedsimError, OSError):
        if state.round > saved:
            simulation.checkpoint(state, engine).save(folder)
        _write_summary(folder, simulation, state, status, "interrupted" if interrupted else str(error))


def _write_folder(folder: Path, simulation: Simulation) -> None:
    """Make a run folder: configuration, environment, partition."""
    folder.mkdir(parents=True)
    write_atomically(folder / "config.yaml", simulation.config.to_yaml().encode())
    described = json.dumps(environment(simulation.worker.device), indent=1)
    write_atomically(folder / "environment.json", described.encode())
    dataset = simulation.data.dataset
    counts = simulation.data.partition.label_counts(dataset.y_train, dataset.num_classes)
    with (folder / "partition.npz").open("wb") as file:
        np.savez_compressed(file, label_counts=counts)


def _write_summary(
    folder: Path, simulation: Simulation, state: RunState, status: str, reason: str | None = None
) -> None:
    config, counts = simulation.config, simulation.data.class_counts
    finished = status == "finished"
    head = next(iter(simulation.scores(state.tensors).values()), None) if finished else None
    group_of = {int(c): group for group, classes in simulation.groups.items() for c in classes}
    engine = config.engine.model_dump(mode="json", exclude_none=True)
    summary: dict[str, Any] = {
        "status": status,
        "name": folder.name,
        "strategy": config.strategy.name,
        "dataset": simulation.data.dataset.name,
        "seed": config.seed,
        "rounds": config.rounds,
        "rounds_done": state.round,
        "engine": {**engine, "device": str(simulation.worker.device), "why": simulation.choices},
        "wall_time_s": round(state.seconds, 3),
        "versions": versions(),
        "model_sha256": sha256(folder / "model.safetensors") if finished else None,
        "metrics": _newest(state.metrics),
        "per_class_accuracy": None if head is None else [v if np.isfinite(v) else None for v in head.per_class],
        "class_counts": counts.tolist(),
        "class_groups": [group_of[c] for c in range(len(counts))] if group_of else None,
        "failures": state.failures,
        "reason": reason,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1).encode())


def _write_pictures(folder: Path) -> None:
    from fedsim.report.html import write_report  # matplotlib: not before the first round
    from fedsim.report.plots import write_plots

    opened = RunFolder.open(folder)
    write_plots(opened)
    write_report([opened], folder / "report.html")


def _newest(lines: list[dict[str, Any]]) -> Metrics:
    return {name: value for line in lines for name, value in line["metrics"].items()}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _cause(error: OSError | FedsimError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
