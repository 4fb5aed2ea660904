"""FedLoGe and its baselines on long-tailed digits, with checks of the expected results.

Run `python scripts/fedloge_digits.py --out fedloge_digits.json`. It takes about 7 minutes on one CPU core and exits
with 1 if a check fails. If a check expects a gain in every run, the mean gain must be positive, and the runs with a
loss are counted.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from fedloge_comparison import OWN, Method, Results, compare

FEDLOGE, DENSE = "FedLoGe", "FedLoGe, dense V"
METHODS = {
    FEDLOGE: Method("fedloge_digits", realign=["keep"]),
    DENSE: Method("fedloge_digits", {"strategy.sparsity": 0.0}),
    "FedAvg": Method("fedavg_digits", realign=["keep", "drop"]),
    "FedProx": Method("fedprox_digits"),
    "FedETF": Method("fedetf_digits"),
    "FedETF, sparse V": Method("fedetf_digits", {"strategy.sparsity": 0.6}),
    "Ditto": Method("ditto_digits"),
    "FedRep": Method("fedrep_digits"),
}


def gains(results: Results) -> dict[str, tuple[list[float], float]]:
    """Return {name: (gain of each seed in points, least mean gain that passes)}."""

    def gain(better: tuple[str, str, str], worse: tuple[str, str, str]) -> list[float]:
        pairs = zip(results.of(*better), results.of(*worse), strict=True)
        return [round(a - b, 2) for a, b in pairs]

    own = (FEDLOGE, OWN, "masked")
    return {
        "tail: GM (GLA-FR) over psi": (gain((FEDLOGE, OWN, "tail"), (FEDLOGE, "psi", "tail")), 2.0),
        "global: sparse V over dense V": (gain((FEDLOGE, "sse", "global"), (DENSE, "sse", "global")), 4.0),
        "clients: masked PM over phi alone": (gain(own, (FEDLOGE, "phi", "masked")), 0.0),
        "clients: masked psi over unmasked psi": (
            gain((FEDLOGE, "psi", "masked"), (FEDLOGE, "psi", "unmasked")),
            0.0,
        ),
        "clients: masked PM over unmasked psi": (gain(own, (FEDLOGE, "psi", "unmasked")), 0.0),
    }


def main(
    seeds: Annotated[list[int] | None, typer.Option(help="Repeatable; 0, 1 and 2 by default.")] = None,
    only: Annotated[bool, typer.Option("--only-fedloge", help="Run no baselines.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Train, print the table and the checks."""
    methods = {name: METHODS[name] for name in (FEDLOGE, DENSE)} if only else METHODS
    results = compare(methods, seeds or [0, 1, 2], {})
    print(f"\n{results.table()}\n")
    if out is not None:
        results.write(out)
    failed = False
    for what, (values, least) in gains(results).items():
        passed = mean(values) > least
        failed |= not passed
        lost = f"; lost in {sum(v < 0 for v in values)} of {len(values)} runs" if min(values) < 0 else ""
        verdict = "ok    " if passed else "FAILED"
        print(f"{verdict} {what}: {mean(values):+.1f} (above {least:+.1f} asked){lost}: {values}")
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
