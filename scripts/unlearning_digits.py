"""Every unlearning method on a federation of digits, for three kinds of requests: the table of methods in RESULTS.md.

Run `python scripts/unlearning_digits.py --out FOLDER`. It takes about 6 minutes on one CPU core. Runs, originals and
oracles that FOLDER already has are kept. It is `fedsim run --strategy fedavg --clients 20`, then for each request
`fedsim unlearn RUN --method all --forget REQUEST --compare retrain --seeds 3`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

import fedsim
from unlearning.pipeline.comparison import Comparison, Row
from unlearning.pipeline.runner import unlearn

REQUESTS = ("class=3", "client=7", "random=0.05")


def markdown(comparisons: list[Comparison]) -> str:
    """Return the rows, sorted by mean gap over all requests; a method has no number for a request that it cannot serve.

    For each request: gap to the oracle (points) with its standard deviation over the seeds, accuracy on the forgotten
    samples (%), AUC of the attack by loss (%). Flags: the number of all models with a flag. Seconds: those of the
    method in the first request.
    """
    heads = [f"{comparison.forget}: gap | forget | MIA" for comparison in comparisons]
    lines = [f"| | {' | '.join(heads)} | flags | seconds |", "|" + "---|" * (3 * len(comparisons) + 3)]
    rows: dict[str, dict[str, Row]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            rows.setdefault(row.name, {})[comparison.forget] = row
    for name, found in sorted(rows.items(), key=_mean_gap):
        cells, flags = [], Counter[str]()
        for comparison in comparisons:
            at = found.get(comparison.forget)
            cells += ["-"] * 3 if at is None else _cells(at)
            flags.update({} if at is None else at.flags)
        raised = ", ".join(f"{flag} {count}" for flag, count in flags.items())
        seconds = f"{next(iter(found.values())).mean('seconds'):.2f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {raised} | {seconds} |")
    return "\n".join(lines)


def _mean_gap(item: tuple[str, dict[str, Row]]) -> float:
    gaps = [row.mean("average_gap") for row in item[1].values()]
    return -1 if item[0] == "oracle" else sum(gaps) / len(gaps)


def _cells(row: Row) -> list[str]:
    found = row.metrics.get("average_gap")
    gap = "-" if found is None else f"{found.mean:.1f}" + ("" if found.sd is None else f" ± {found.sd:.1f}")
    return [gap, *(f"{100 * row.mean(metric):.1f}" for metric in ("accuracy_forget", "mia_auc"))]


def main(
    out: Annotated[Path, typer.Option(help="Folder for the run and its outcomes.")],
    seed: Annotated[int, typer.Option(help="Seed of the run; the repetitions use it and the next ones.")] = 0,
    repetitions: Annotated[int, typer.Option(help="Originals and oracles per request.")] = 3,
    requests: Annotated[
        list[str] | None, typer.Option(help="Repeatable; a class, a client, samples by default.")
    ] = None,
) -> None:
    """Train, forget, and print a table per request."""
    run = out / f"digits-{seed}"
    if not run.exists():
        fedsim.run({"strategy": "fedavg", "clients": 20}, overrides={"seed": seed, "out": str(out), "name": run.name})
    comparisons = []
    for request in requests or REQUESTS:
        name = request.replace("=", "-")
        outcome = unlearn(run, ["all"], request, compare="retrain", seeds=repetitions, name=name, force=True, say=print)
        comparisons.append(outcome.comparison)
    print(f"\n{markdown(comparisons)}")


if __name__ == "__main__":
    typer.run(main)
