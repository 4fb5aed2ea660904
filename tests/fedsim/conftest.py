import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedsim.runs.folder import RunFolder
from tests.fedsim.two_nodes import TwoNodes

MakeRun = Callable[..., Path]

CONFIG = {
    "name": None,
    "seed": 7,
    "rounds": 4,
    "clients": 3,
    "strategy": {"name": "fedloge", "mu": 0.01},
    "data": {"name": "digits", "imbalance_factor": 1.0, "partition": {"name": "dirichlet", "alpha": 0.3}},
    "model": {"name": "cnn", "width": None},
    "engine": {"name": "auto", "threads": 1},
}

# Two evaluations, in rounds 2 and 4; a third value of the loss in between.
ROWS = [
    {"round": 1, "time_s": 0.5, "metrics": {"train/loss": 2.0}},
    {"round": 2, "time_s": 1.0, "metrics": {"train/loss": 1.5, "global/accuracy": 0.25, "global/loss": 1.75}},
    {"round": 3, "time_s": 1.5, "metrics": {"train/loss": 1.0}},
    {
        "round": 4,
        "time_s": 2.0,
        "metrics": {
            "train/loss": 0.5,
            "global/accuracy": 0.875,
            "global/loss": 0.5,
            "clients/accuracy": 0.75,
            "global_psi/accuracy": 0.9,
        },
    },
]
COUNTS = [[5, 0, 1], [0, 7, 0], [2, 2, 2]]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder and return its path; a part given as None is left out."""

    def make(
        folder: str = "run",
        rows: Sequence[Mapping[str, Any]] | None = ROWS,
        summary: Mapping[str, Any] | None = {},
        counts: Any = COUNTS,
        config: Mapping[str, Any] = {},
        environment: Mapping[str, Any] | None = {"python": "3.11", "versions": {"torch": "2.11"}},
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **config}, sort_keys=False))
        if environment is not None:
            (path / "environment.json").write_text(json.dumps(environment))
        if rows is not None:
            (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if counts is not None:
            np.savez(path / "partition.npz", label_counts=np.asarray(counts))
        if summary is not None:
            ended = {
                "status": "finished",
                "name": folder,
                "rounds_done": 4,
                "rounds": 4,
                "engine": {"name": "inprocess"},
                "wall_time_s": 125.0,
                "model_sha256": "ab" * 32,
                "metrics": rows[-1]["metrics"] if rows else {},
                "per_class_accuracy": [0.9, 0.5, None],
                "class_counts": [7, 9, 3],
                "failures": 0,
            }
            (path / "summary.json").write_text(json.dumps({**ended, **summary}))
        return path

    return make


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    """Start a cluster of two nodes on this machine, and end it."""
    pytest.importorskip("ray")
    made = TwoNodes()
    yield made
    for node in reversed(range(2)):
        made.kill(node)


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    """Return a copy of a small run, to be damaged."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def six_runs(make_run: MakeRun) -> list[RunFolder]:
    """Three seeds of a method, two of which reach 80 %, and three of another that is better on all of them."""
    made = []
    for name, accuracies in (("fed_a", [0.70, 0.80, 0.90]), ("fed_b", [0.76, 0.855, 0.95])):
        for seed, accuracy in enumerate(accuracies):
            rows = [
                {"round": r, "time_s": 2.0 * r, "bytes_down": 400_000, "bytes_up": 100_000 * (1 + seed),
                 "metrics": {"global/accuracy": accuracy * r / 4} if r % 2 == 0 else {}}
                for r in (1, 2, 3, 4)
            ]  # fmt: skip
            config = {"seed": seed, "strategy": {"name": name}}
            path = make_run(f"{name}-{seed}", config=config, rows=rows, summary={"metrics": rows[-1]["metrics"]})
            made.append(RunFolder.open(path))
    return made
