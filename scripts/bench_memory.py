"""Memory of the server while a cohort of 1,000 trains a network of 10 million parameters, in units of one model.

    python scripts/bench_memory.py                      # in this process and on two Ray workers, about 3 minutes
    python scripts/bench_memory.py --cohort 100 --hidden 1258 --json memory.json

Each row runs in its own process. "private" is the memory of the server's process alone. "shared" is the part of Ray's
object store that the server has touched; the workers map the same pages. Both are differences to the process before the
simulation was created. Both are the maxima in the first round.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from bench.compare import show, write
from bench.workloads import Workload

_EVERY_S = 0.01
_COLUMNS = {
    "parameters": ("parameters", "{:,}"),
    "cohort": ("cohort", "{}"),
    "private, models": ("private", "{:.1f}"),
    "shared, models": ("shared", "{:.1f}"),
    "together, models": ("together", "{:.1f}"),
}


_KINDS = {"RssAnon:": "private", "RssShmem:": "shared"}


def resident() -> dict[str, int]:
    """Return this process's resident memory in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {_KINDS[line[0]]: int(line[1]) * 1024 for line in lines if line[0] in _KINDS}


def measure(workers: int, cohort: int, hidden: int) -> dict[str, Any]:
    """Run one round and return the peaks of the server's memory, in units of one model."""
    from fedsim.config.resolve import resolve
    from fedsim.runs.simulation import Simulation

    before = resident()
    model = {"name": "mlp", "hidden": [hidden]}
    workload = Workload((28, 28, 1), model, clients=cohort, cohort=cohort, samples=2, batch=2)
    engine = {"engine.name": "ray", "engine.num_workers": workers} if workers else {"engine.name": "inprocess"}
    simulation = Simulation(resolve(workload.config(), {"training.vectorize": "never", **engine}))
    bytes_of_model = sum(value.nbytes for value in simulation.server.initial().values())
    peak, over = dict(before), threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            for kind, size in resident().items():
                peak[kind] = max(peak[kind], size)

    with contextlib.closing(simulation.engine()) as grid:
        state = simulation.begin()
        watcher = threading.Thread(target=watch)
        watcher.start()
        simulation.step(state, grid)
        over.set()
        watcher.join()
    models = {kind: (peak[kind] - before[kind]) / bytes_of_model for kind in peak}
    return {**models, "together": sum(models.values()), "parameters": bytes_of_model // 4, "cohort": cohort}


def main(
    cohort: Annotated[int, typer.Option(help="Number of clients; all of them train.")] = 1000,
    hidden: Annotated[int, typer.Option(help="Hidden units; each has 795 parameters.")] = 12578,
    out: Annotated[Path | None, typer.Option("--json", help="File for all numbers.")] = None,
    row: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print the table, and write JSON."""
    if row is not None:
        print(json.dumps(measure(row, cohort, hidden)))
        return
    results = {}
    for name, workers in {"in-process": 0, "two Ray workers": 2}.items():
        command = [sys.executable, __file__, "--cohort", str(cohort), "--hidden", str(hidden), "--row", str(workers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (done.stdout if not done.returncode else done.stderr).strip().splitlines() or ["no message"]
        results[name] = {"error": lines[-1]} if done.returncode else json.loads(lines[-1])
    show("Memory of the server", results, _COLUMNS)
    write(out, {"memory": results})


if __name__ == "__main__":
    typer.run(main)
