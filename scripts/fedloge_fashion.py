"""FedLoGe and its baselines on long-tailed Fashion-MNIST, with a BatchNorm CNN.

Run `python scripts/fedloge_fashion.py --data-root FOLDER --out fedloge_fashion.json`. It takes about 10 minutes on one
CPU core. FedETF is not run: its global model is bit-identical to the head "sse" of FedLoGe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from fedloge_comparison import Method, compare

PRESET = "fedloge_fashion"
METHODS = {
    "FedLoGe": Method(PRESET, realign=["keep"]),
    "FedLoGe, dense V": Method(PRESET, {"strategy.sparsity": 0.0}),
    "FedAvg": Method(PRESET, {"strategy.name": "fedavg"}, realign=["keep", "drop"]),
    "Ditto": Method(PRESET, {"strategy.name": "ditto", "strategy.personal_epochs": 3}),
    "FedRep": Method(PRESET, {"strategy.name": "fedrep", "strategy.head_epochs": 3}),
}


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of fashionmnist.npz; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, and print the table."""
    overrides = {} if data_root is None else {"data.root": str(data_root)}
    results = compare(METHODS, seeds or [0, 1, 2], overrides)
    print(f"\n{results.table()}")
    if out is not None:
        results.write(out)


if __name__ == "__main__":
    typer.run(main)
