"""The CIFAR10-IID benchmark of pfl-research (arXiv:2404.06430): complete runs for each value of training.vectorize."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.workloads import Workload

CIFAR10_IID = Workload(
    (32, 32, 3), {"name": "pfl_cnn"}, clients=1000, cohort=50, samples=50, batch=10, lr=0.1, tests=10_000
)
"""1,000 users of 50 images, with dropout .25 and .5. All users have the same number of samples, so the weighted mean is
the unweighted one. A server SGD of learning rate 1 makes exactly the step to the mean."""
TINY = replace(CIFAR10_IID, clients=20, cohort=4, samples=10, tests=50)
ROUNDS, EVAL_EVERY = 1500, 10


def run(
    workload: Workload, mode: str, *, data_root: Path | None, rounds: int, device: str, chunk: int | None
) -> dict[str, Any]:
    """Run the benchmark; return its accuracies and times in seconds, including set-up and tests.

    The data is CIFAR-10 if `data_root` has it, else random data of the same shape.
    """
    begun = time.perf_counter()
    from fedsim.config.resolve import resolve
    from fedsim.runs.simulation import Simulation

    real = data_root is not None and any(data_root.glob("cifar*10*"))
    data = {"data.name": "cifar10", "data.root": data_root} if real else {}
    simulation = Simulation(
        resolve(
            workload.config(),
            {"training.vectorize": mode, "training.chunk": chunk, "engine.name": "inprocess", "engine.device": device},
            {"rounds": rounds, "eval_every": EVAL_EVERY, **data},
        )
    )
    prepared = time.perf_counter()
    with contextlib.closing(simulation.engine()) as engine:
        state = simulation.begin()
        for _ in range(rounds):
            simulation.step(state, engine)
    finished = time.perf_counter()
    accuracies = {
        line["round"]: line["metrics"]["global/accuracy"]
        for line in state.metrics
        if "global/accuracy" in line["metrics"]
    }
    return {
        "data": "cifar10" if real else "synthetic", "choice": simulation.choices["vectorize"], "rounds": rounds,
        "total_s": finished - begun, "setup_s": prepared - begun, "failures": state.failures,
        "accuracy": accuracies[rounds], "accuracies": accuracies,
    }  # fmt: skip
