"""A small federation as a simulation, and the same as an app with files for its nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import fedsim
from fedsim.config.resolve import resolve
from fedsim.deploy.write import write_app
from fedsim.runs.result import RunResult
from fedsim.runs.simulation import Simulation

SMALL = {
    "clients": 3, "rounds": 2, "name": "small", "seed": 5, "model": {"name": "mlp", "hidden": [8]},
    "training": {"epochs": 1, "vectorize": "never", "chunk": 1}, "checkpoint_every": 1, "eval_clients": "none",
}  # fmt: skip


def simulated(folder: Path, config: Mapping[str, Any]) -> RunResult:
    """Run a configuration in this process."""
    return fedsim.run({**config, "out": str(folder / "simulated")})


def made_app(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write the app of a configuration, a file for each node with what its client has there, and a test set."""
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    data = Simulation(resolve(config)).data
    for client in range(len(data.partition)):
        rows = data.partition[client]
        np.savez(folder / f"node{client}.npz", x=data.dataset.x_train[rows, 0], y=data.dataset.y_train[rows])
    np.savez(folder / "test.npz", x=data.dataset.x_test[:, 0], y=data.dataset.y_test)
    return write_app(str(folder / "config.yaml"), folder / "app")


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}
