"""Compare rows: each runs in its own process, and the rows take turns, so that all of them have the same noise."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.workloads import WORKLOADS, Workload

Result = dict[str, Any]
"""Results of one row in one workload, over all repeats; `error` if it could not run."""
Results = dict[str, dict[str, Result]]
"""{workload: {row: result}}."""

BARE = "bare"
_CLOSE = 0.01  # distance of the parameters of two rows, relative to the distance from the initial ones
_ALIKE = (0.7, 1.4)  # ratio of these distances, if dropout or other clients make the parameters differ
_TIMEOUT_S = 900
_console = Console()
if not _console.is_terminal:  # in a log file: columns are not shortened
    _console = Console(width=160)


def names(text: str, known: Iterable[str], what: str) -> list[str]:
    """Return the names in a comma-separated list; exits with a message if one is unknown."""
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"{what}: no {unknown[0]!r}; there are {', '.join(known)}")
    return chosen


def compare(
    workloads: Mapping[str, Workload], rows: Sequence[str], *, repeats: int, rounds: int | None, device: str = "cpu"
) -> Results:
    """Run every row of every workload `repeats` times, rows next to each other in time, and return the medians."""
    runs: dict[tuple[str, str], list[Result]] = {(w, row): [] for w in workloads for row in rows}
    with tempfile.TemporaryDirectory(prefix="fedsim-bench-") as folder:
        for workload in workloads.values():
            workload.data_file()
        for repeat in range(repeats):
            for name, row in runs:
                if any("error" in run for run in runs[name, row]):
                    continue
                run = _run(workloads[name], row, rounds or workloads[name].rounds, device, Path(folder))
                runs[name, row].append(run)
                outcome = run.get("error") or f"{median(run['seconds']):.4f} s/round"
                _console.print(f"[dim]{repeat + 1}/{repeats} {name} {row}: {outcome}[/]", highlight=False)
    return {
        name: _with_ratios({row: _summary(runs[name, row], workload) for row in rows})
        for name, workload in workloads.items()
    }


def _run(workload: Workload, row: str, rounds: int, device: str, folder: Path) -> Result:
    task, report, parameters = (folder / name for name in ("task.json", "report.json", "parameters.npz"))
    report.unlink(missing_ok=True)
    task.write_text(
        json.dumps(
            {
                "workload": workload.describe(), "row": row, "rounds": rounds, "device": device,
                "report": str(report), "parameters": str(parameters), "begun": time.time(),
            }
        )
    )  # fmt: skip
    scripts = str(Path(__file__).parents[1])
    paths = [scripts, str(Path(scripts).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Measurements of `auto` are stored for one comparison: not older ones, and not new ones in every repeat.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "bench.rows", str(task)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {_TIMEOUT_S} s"}
    if done.returncode or not report.exists():
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    with np.load(parameters) as moved:
        return {**json.loads(report.read_text()), "moved": moved["end"] - moved["start"]}


def _summary(runs: list[Result], workload: Workload) -> Result:
    if failed := [run for run in runs if "error" in run]:
        return {"error": failed[0]["error"]}
    seconds = [second for run in runs for second in run["seconds"]]
    numbers: dict[str, float] = {
        key: median(run[key] for run in runs)
        for key in ("startup_s", "cpu_s", "cpu_total_s", "memory_mb", "peak_rss_mb", "gpu_mb", "overhead",
                    "overhead_outside_trainer")
        if key in runs[0]
    }  # fmt: skip
    return {
        "median_s": median(seconds), "min_s": min(seconds), "clients_per_s": workload.cohort / median(seconds),
        **numbers, "steps": runs[0]["steps"], "seconds": [run["seconds"] for run in runs],
        "choices": sorted({run["choice"] for run in runs if "choice" in run}),
        "failures": sum(run.get("failures", 0) for run in runs),
        "moved": runs[0]["moved"], "exact": workload.exact,
    }  # fmt: skip


def _with_ratios(results: dict[str, Result]) -> dict[str, Result]:
    """Add to every row its ratio to the bare loop, and whether it did the same work."""
    reference = results.get(BARE, {})
    base = reference.get("moved")
    for row, result in results.items():
        moved, exact = result.pop("moved", None), result.pop("exact", None)
        if moved is None or base is None:
            continue
        result["ratio"] = reference["median_s"] / result["median_s"]
        result["ratio_of_cpu"] = reference["cpu_s"] / max(result["cpu_s"], 1e-9)
        result["ratio_of_min"] = reference["min_s"] / result["min_s"]
        way = float(np.linalg.norm(base))
        result["distance"] = float(np.linalg.norm(moved - base)) / way
        result["way"] = float(np.linalg.norm(moved)) / way
        same_steps = result["steps"] in (None, reference["steps"])
        near = result["distance"] < _CLOSE if exact and row != "flower" else _ALIKE[0] < result["way"] < _ALIKE[1]
        result["agrees"] = bool(same_steps and near and not result["failures"])
    return results


def disagreements(results: Results) -> list[str]:
    """Return the rows that did other work than the bare loop."""
    return [f"{name} {row}" for name, rows in results.items() for row, r in rows.items() if r.get("agrees") is False]


_COLUMNS = {
    "s/round": ("median_s", "{:.4f}"),
    "min": ("min_s", "{:.4f}"),
    "x bare": ("ratio", "{:.2f}"),
    "by CPU": ("ratio_of_cpu", "{:.2f}"),
    "clients/s": ("clients_per_s", "{:.0f}"),
    "CPU s/round": ("cpu_s", "{:.3f}"),
    "CPU s, total": ("cpu_total_s", "{:.1f}"),
    "memory MB": ("memory_mb", "{:.0f}"),
    "GPU MB": ("gpu_mb", "{:.0f}"),
    "start-up s": ("startup_s", "{:.1f}"),
    "overhead": ("overhead", "{:.1%}"),
    "same work": ("agrees", "{}"),
}


def show(title: str, results: Mapping[str, Result], columns: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Print one table, without columns that are empty in all rows."""
    columns = columns or _COLUMNS
    filled = {head: column for head, column in columns.items() if any(r.get(column[0]) for r in results.values())}
    table = Table("row", title=title, title_justify="left")
    for head in filled:
        table.add_column(head, justify="right")
    for row, result in results.items():
        if "error" in result:
            table.add_row(row, result["error"])
            continue
        cells = [form.format(result[key]) if key in result else "" for key, form in filled.values()]
        table.add_row(row, *cells)
    _console.print(table)
    for row, result in results.items():
        for choice in result.get("choices", []):
            _console.print(f"  {row}: {choice}", highlight=False)


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write the results and a description of the machine as JSON."""
    if path is None:
        return
    machine = {
        "platform": platform.platform(), "python": platform.python_version(), "torch": torch.__version__,
        "cpus": os.cpu_count(), "load": os.getloadavg(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip
    workloads = {name: WORKLOADS[name].describe() for name in results.get("workloads", {}) if name in WORKLOADS}
    path.write_text(json.dumps({"machine": machine, "definitions": workloads, **results}, indent=1))


def table_title(name: str, workload: Workload) -> str:
    """Describe a workload in one line."""
    shape = "x".join(map(str, workload.shape))
    return (
        f"{name}: {workload.model['name']} on {shape}, {workload.cohort} of {workload.clients} clients, "
        f"{workload.samples} samples, batch {workload.batch}, {workload.epochs} epochs"
    )
