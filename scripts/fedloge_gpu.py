"""FedLoGe and its baselines on long-tailed CIFAR, for a machine with a GPU. We have not run it so far.

Run `python scripts/fedloge_gpu.py --data-root FOLDER` with one of

- `--scale short`: ResNet-18, 120 rounds, minutes. It exits with 1 unless FedLoGe's personal models are better than
  FedAvg's and GLA-FR improves the tail;
- `--scale paper`: both data sets, 500 rounds, hours;
- `--scale readme`: the run of the authors' README, hours.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Annotated, Literal

import typer
from fedloge_comparison import OWN, Method, Results, compare

BOTH = ["keep", "drop"]
SCALES = {
    "short": {
        "FedLoGe": Method("fedloge_cifar10lt_gpu", realign=BOTH),
        "FedAvg": Method("fedavg_cifar10lt_gpu", realign=BOTH),
    },
    "paper": {
        f"{name}, CIFAR-{classes}": Method(f"{preset}_cifar{classes}lt_paper")
        for classes in (10, 100)
        for name, preset in {"FedLoGe": "fedloge", "FedAvg": "fedavg", "FedETF": "fedetf", "Ditto": "ditto"}.items()
    },
    # Reference: V alone 41.0 +- 1.5, PM masked 72.6 +- 1.5.
    "readme": {"FedLoGe": Method("fedloge_cifar100lt_paper", {"clients": 40, "cohort": "30%"})},
}


def _shortcomings(results: Results) -> list[str]:
    """Return which of the expected gains are missing."""

    def average(method: str, head: str, column: str) -> float:
        return mean(results.of(method, head, column))

    gains = {
        "personal models over FedAvg": average("FedLoGe", OWN, "masked") - average("FedAvg", OWN, "masked"),
        "GLA-FR over psi in the tail": average("FedLoGe", OWN, "tail") - average("FedLoGe", "psi", "tail"),
    }
    for what, gain in gains.items():
        print(f"{what}: {gain:+.1f}")
    return [what for what, gain in gains.items() if gain <= 0]


def main(
    scale: Annotated[Literal["short", "paper", "readme"], typer.Option(help="The size of the experiment.")] = "short",
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0 by default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the CIFAR archives; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, print the table, and check the short scale."""
    overrides = {} if data_root is None else {"data.root": str(data_root)}
    results = compare(SCALES[scale], seeds or [0], overrides)
    print(f"\n{results.table()}\n")
    if out is not None:
        results.write(out)
    raise typer.Exit(int(scale == "short" and bool(_shortcomings(results))))


if __name__ == "__main__":
    typer.run(main)
