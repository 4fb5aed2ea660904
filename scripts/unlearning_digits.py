"""Every unlearning method on a federation on digits, for three kinds of requests: the table of methods in RESULTS.md.

Run `python scripts/unlearning_digits.py --out FOLDER`; it takes about TODO minutes on one CPU core. What FOLDER already
has of runs, originals and oracles is kept. It is `fedsim run --strategy fedavg --clients 20`, then for each request
`fedsim unlearn RUN --method all --forget REQUEST --compare retrain --seeds 3`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fedsim
from fedsim.unlearn.comparison import Comparison, Row
from fedsim.unlearn.runner import unlearn

REQUESTS = ("class=3", "client=7", "random=0.05")
COLUMNS = {
    "average_gap": 1.0, "accuracy_forget": 100.0, "accuracy_retain": 100.0, "accuracy_test": 100.0, "mia_auc": 100.0,
    "seconds": 1.0,
}  # fmt: skip
"""Metric -> factor."""


def markdown(comparison: Comparison) -> str:
    """Return the rows, nearest to the oracle first: means over the seeds, of the gap with its standard deviation."""
    lines = [f"| {comparison.forget} | {' | '.join(COLUMNS)} | flags |", "|" + "---|" * (len(COLUMNS) + 2)]
    for row in comparison.rows:
        flags = ", ".join(f"{flag} {count}/{comparison.seeds}" for flag, count in row.flags.items())
        cells = [_cell(row, metric, factor) for metric, factor in COLUMNS.items()]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {flags} |")
    return "\n".join(lines)


def _cell(row: Row, metric: str, factor: float) -> str:
    if metric not in row.metrics:
        return "-"
    found = row.metrics[metric]
    text = f"{factor * found.mean:.{2 if metric == 'seconds' else 1}f}"
    return text if metric != "average_gap" or found.sd is None else f"{text} ± {factor * found.sd:.1f}"


def main(
    out: Annotated[Path, typer.Option(help="Folder for the run and its outcomes.")],
    seed: Annotated[int, typer.Option(help="The run's; the repetitions have it and the next ones.")] = 0,
    repetitions: Annotated[int, typer.Option(help="Originals and oracles per request.")] = 3,
    requests: Annotated[
        list[str] | None, typer.Option(help="Repeatable; a class, a client, samples by default.")
    ] = None,
) -> None:
    """Train, forget, and print a table per request."""
    run = out / f"digits-{seed}"
    if not run.exists():
        fedsim.run({"strategy": "fedavg", "clients": 20}, overrides={"seed": seed, "out": str(out), "name": run.name})
    for request in requests or REQUESTS:
        outcome = unlearn(
            run, ["all"], request, compare="retrain", seeds=repetitions, name=request.replace("=", "-"), force=True
        )
        print(f"\n{markdown(outcome.comparison)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
