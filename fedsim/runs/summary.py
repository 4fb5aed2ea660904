"""Writes `summary.json`: how a run ended, and its final metrics."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.atomic import write_atomically
from fedsim.data.federation import clients_by
from fedsim.environment import versions
from fedsim.flower.records import Tensors
from fedsim.runs.pictures import PICTURES
from fedsim.runs.simulation import Simulation
from fedsim.runs.staging import schedule
from fedsim.runs.state import Metrics, RunState
from fedsim.sealed import seal, sha256


def newest(lines: list[dict[str, Any]]) -> Metrics:
    """Return the newest value of each metric in the lines of metrics.jsonl."""
    return {name: value for line in lines for name, value in line["metrics"].items()}


def server_hashes(tensors: Tensors) -> dict[str, str]:
    """Return hexadecimal SHA-256 hashes of the server's tensors, grouped by the part of their names before the slash.

    Names, types, shapes and bytes are hashed in the order of names, so that the tensors of two runs can be compared.
    """
    found: dict[str, Any] = {}
    for name, value in sorted(tensors.items()):
        digest = found.setdefault(name.partition("/")[0], hashlib.sha256())
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {part: digest.hexdigest() for part, digest in found.items()}


def write_summary(
    folder: Path, simulation: Simulation, state: RunState, status: str, reason: str | None = None
) -> None:
    """Write the summary of a run. The model must exist if the run is finished; `reason` says why it is not."""
    config, counts = simulation.config, simulation.data.class_counts
    finished = state.round == config.rounds and status in ("finished", "diverged")
    # The last round has scores, unless its process was killed after the checkpoint.
    scores = (state.scores or simulation.scores(state.tensors, state.round)) if finished else {}
    head = next(iter(scores.values()), None)
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
        "ended": simulation.choices.get("rounds"),
        "engine": {**engine, "device": str(simulation.worker.device), "why": simulation.choices},
        "wall_time_s": round(state.seconds, 3),
        "versions": versions(),
        "pictures_sha256": sha256(folder / PICTURES) if finished and (folder / PICTURES).exists() else None,
        "model_sha256": sha256(folder / "model.safetensors") if finished else None,
        "server_sha256": server_hashes(state.server[0]),
        "files": {"metrics.jsonl": sha256(folder / "metrics.jsonl")},
        "metrics": newest(state.metrics),
        "per_class_accuracy": None if head is None else [v if np.isfinite(v) else None for v in head.per_class],
        "class_counts": counts.tolist(),
        "class_names": simulation.data.dataset.class_names,
        "clients_by": clients_by(config.data, simulation.data.dataset),
        "client_names": simulation.data.dataset.client_names,
        "class_groups": [group_of[c] for c in range(len(counts))] if group_of else None,
        "stages": None if simulation.data.stages is None else schedule(simulation.data.stages, config.rounds),
        "shows": [*(f"global/{name}" for name in simulation.own_metrics), *simulation.strategy.shows],
        "own_metrics": {name: metric.sentence for name, metric in simulation.own_metrics.items()}
        | dict(simulation.strategy.metrics),
        "failures": state.failures,
        "reason": reason,
    }
    write_atomically(folder / "summary.json", seal(json.dumps(summary, indent=1)))
