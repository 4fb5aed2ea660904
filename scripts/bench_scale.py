"""A fixed cohort of 50 and a growing number of registered clients: the cost of clients that do not take part.

    python scripts/bench_scale.py                  # 100 to 100,000 clients, about 3 minutes
    python scripts/bench_scale.py --million        # and 1,000,000

Every client has 4 samples of its own. A round is 5 steps of each client of the cohort, for any number of clients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from bench.compare import Result, compare, show, write
from bench.workloads import Workload

_COLUMNS = {
    "s/round": ("median_s", "{:.4f}"),
    "min": ("min_s", "{:.4f}"),
    "x first": ("slowdown", "{:.3f}"),
    "x first, min": ("slowdown_of_min", "{:.3f}"),
    "CPU s/round": ("cpu_s", "{:.4f}"),
    "start-up s": ("startup_s", "{:.1f}"),
    "peak MB": ("peak_rss_mb", "{:.0f}"),
    "extra MB": ("extra_mb", "{:+.0f}"),
}


def registered(clients: int) -> Workload:
    """Return the workload with this number of registered clients."""
    return Workload((8, 8, 1), {"name": "cnn"}, clients=clients, samples=4, batch=4, epochs=5)


def main(
    sizes: Annotated[
        str, typer.Option(help="Numbers of registered clients, smallest first.")
    ] = "100,1000,10000,100000",
    million: Annotated[bool, typer.Option("--million", help="Also 1,000,000 clients.")] = False,
    rounds: Annotated[int, typer.Option(help="Timed rounds per process.")] = 40,
    repeats: Annotated[int, typer.Option(help="Processes per number of clients; they take turns.")] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="File for all numbers.")] = None,
) -> None:
    """Measure, print the table, and write JSON."""
    counts = [int(size) for size in sizes.split(",")] + [1_000_000] * million
    workloads = {f"{count:,} clients": registered(count) for count in counts}
    by_workload = compare(workloads, ["vectorized"], repeats=repeats, rounds=rounds)
    results: dict[str, Result] = {name: rows["vectorized"] for name, rows in by_workload.items()}
    first = next(iter(results.values()))
    for result in results.values():
        if "error" not in result and "error" not in first:
            result["slowdown"] = result["median_s"] / first["median_s"]
            result["slowdown_of_min"] = result["min_s"] / first["min_s"]
            result["extra_mb"] = result["peak_rss_mb"] - first["peak_rss_mb"]
    show("Cohort of 50, small CNN on 8x8, in-process, vectorized", results, _COLUMNS)
    write(out, {"repeats": repeats, "rounds": rounds, "clients": results})


if __name__ == "__main__":
    typer.run(main)
