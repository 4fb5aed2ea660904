"""fedsim's engines compared with a bare PyTorch loop, Flower's engine and pfl-research, on the same FedAvg steps.

    python scripts/bench_engines.py                              # W1, W2, W3 and FLUTE, all rows: about 15 minutes
    python scripts/bench_engines.py --workloads W1 --rows bare,auto --repeats 5 --json w1.json
    python scripts/bench_engines.py --startup                    # import to first round of the quickstart
    python scripts/bench_engines.py --sweep                      # twelve runs, one after another and packed

The other engines are optional: `pip install 'fedsim[bench]'`. This installs NumPy below 2, which pfl needs. To keep a
newer NumPy, `pip install --no-deps pfl==0.6.0 dp-accounting==0.4.4 prv-accountant==0.2.0 absl-py==1.4.0
dm-tree==0.1.10`. If a row cannot run, the script prints the reason.

Every row runs in its own process with one torch thread (Flower and Ray: one in each worker). Its first round is a
warm-up. The next rounds are timed. In two more rounds the memory of all its processes is sampled. The script exits with
1 if a row did not do the same work as the bare loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from bench.compare import compare, disagreements, names, show, table_title, write
from bench.rows import ROWS
from bench.sweep import sweep
from bench.workloads import WORKLOADS


def startup(repeats: int) -> dict[str, list[float]]:
    """Return seconds from `import fedsim`, and from the start of Python, to the first finished round."""
    scripts = Path(__file__).parent
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            paths = os.pathsep.join([str(scripts), str(scripts.parent)])
            done = subprocess.run(
                [sys.executable, "-m", "bench.startup", str(time.time()), folder],
                env=os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": folder},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        for key, value in json.loads(done.stdout.splitlines()[-1]).items():
            found.setdefault(key, []).append(value)
    return found


def main(
    workloads: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(WORKLOADS)}.")] = "W1,W2,W3,FLUTE",
    rows: Annotated[str, typer.Option(help="In this order; others are compared with the bare loop.")] = ",".join(ROWS),
    rounds: Annotated[int | None, typer.Option(help="Timed rounds per process; by default the workload's.")] = None,
    repeats: Annotated[int, typer.Option(help="Processes per row; the rows take turns.")] = 3,
    quickstart: Annotated[bool, typer.Option("--startup", help="Measure the quickstart's first round.")] = False,
    packing: Annotated[bool, typer.Option("--sweep", help="Measure a sweep of twelve runs.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="File for all numbers.")] = None,
) -> None:
    """Measure, print a table per workload, and write JSON."""
    if quickstart or packing:
        seconds = startup(repeats) if quickstart else sweep(repeats)
        first = median(next(iter(seconds.values())))
        for key, values in seconds.items():
            share = f", {median(values) / first:.2f} of the first" if packing else ""
            print(f"{key}: median {median(values):.2f} s, min {min(values):.2f} s{share}")
        write(out, {"startup" if quickstart else "sweep": seconds})
        return
    chosen = {name: WORKLOADS[name] for name in names(workloads, WORKLOADS, "--workloads")}
    results = compare(chosen, names(rows, ROWS, "--rows"), repeats=repeats, rounds=rounds)
    for name, workload in chosen.items():
        show(table_title(name, workload), results[name])
    write(out, {"repeats": repeats, "workloads": results})
    if wrong := disagreements(results):
        print(f"these rows did not do the work of the bare loop: {', '.join(wrong)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
