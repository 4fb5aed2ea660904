"""Duration of a sweep of twelve runs, one after another and in parallel on the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

_RUNS = [
    "--seeds=0-2", "--set=strategy.name=[fedavg,fedprox]", "--set=training.lr=[0.05,0.1]", "--set=rounds=100",
    "--set=training.vectorize=always",
]  # fmt: skip


def sweep(repeats: int) -> dict[str, list[float]]:
    """Return the wall time of the whole command in seconds, by the number of parallel runs; the settings take turns."""
    cores = len(os.sched_getaffinity(0))
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for jobs in (1, cores):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "fedsim", "sweep", *_RUNS, f"--jobs={jobs}", f"--out={folder}"]
                begun = time.perf_counter()
                subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            found.setdefault(f"{jobs} at a time", []).append(time.perf_counter() - begun)
    return found
