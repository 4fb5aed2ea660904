"""fedsim in one process on a GPU, without Ray: W1 to W4 beside the bare loop, and a complete published benchmark.

    python scripts/bench_gpu.py --json gpu.json                       # both, on the first GPU
    python scripts/bench_gpu.py --cifar-modes auto,never              # the published benchmark, both ways
    python scripts/bench_gpu.py --device cpu --tiny                   # a quick test of the script; half a minute

The published benchmark is pfl-research's CIFAR10-IID: 1,500 rounds, 375,000 local steps. It reads CIFAR-10 from
`--data-root`. Without this option it uses random data of the same shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from bench.cifar import CIFAR10_IID, ROUNDS, TINY, run
from bench.compare import compare, disagreements, names, show, table_title, write
from bench.workloads import WORKLOADS

_ROWS = "bare,sequential,vectorized,auto"
_CIFAR = {
    "whole run s": ("total_s", "{:.1f}"),
    "set-up s": ("setup_s", "{:.1f}"),
    "rounds": ("rounds", "{}"),
    "accuracy": ("accuracy", "{:.4f}"),
    "data": ("data", "{}"),
}


def main(
    workloads: Annotated[str, typer.Option(help=f"Of {', '.join(WORKLOADS)}; empty for none.")] = "W1,W2,W3,W4",
    rows: Annotated[str, typer.Option(help="In this order.")] = _ROWS,
    rounds: Annotated[int | None, typer.Option(help="Timed rounds per process; by default the workload's.")] = None,
    repeats: Annotated[int, typer.Option(help="Processes per row; the rows take turns.")] = 3,
    cifar_modes: Annotated[str, typer.Option(help="How CIFAR10-IID is run; empty: it is left out.")] = "auto",
    cifar_rounds: Annotated[int, typer.Option(help="Rounds of CIFAR10-IID.")] = ROUNDS,
    chunk: Annotated[int | None, typer.Option(help="Clients per chunk in CIFAR10-IID, if not the default.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder with cifar10.npz or torchvision's files.")] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="The smallest sizes, to test the script.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="File for all numbers.")] = None,
) -> None:
    """Measure, print the tables, and write JSON."""
    if tiny:
        workloads, repeats, cifar_rounds = "smoke", 1, 3
    chosen = {name: WORKLOADS[name] for name in names(workloads, WORKLOADS, "--workloads")}
    results = compare(chosen, names(rows, _ROWS.split(","), "--rows"), repeats=repeats, rounds=rounds, device=device)
    for name, workload in chosen.items():
        show(table_title(name, workload), results[name])
    whole: dict[str, dict[str, Any]] = {}
    for mode in names(cifar_modes, ["auto", "always", "never"], "--cifar-modes"):
        whole[mode] = run(
            TINY if tiny else CIFAR10_IID, mode, data_root=data_root, rounds=cifar_rounds, device=device, chunk=chunk
        )
    if whole:
        show("CIFAR10-IID of pfl-research", whole, _CIFAR)
    write(out, {"repeats": repeats, "workloads": results, "cifar10_iid": whole})
    if wrong := disagreements(results):
        print(f"these rows did not do the work of the bare loop: {', '.join(wrong)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
