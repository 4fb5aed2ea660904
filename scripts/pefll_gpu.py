"""PeFLL and FedAvg on CIFAR-10 with 1,000 clients, for a machine with a GPU. We have not run it so far.

Run `python scripts/pefll_gpu.py --data-root FOLDER --out pefll_gpu --method pefll` repeatedly until it is done. Each
call works for `--minutes` and leaves a checkpoint; the next one continues from it. Then do the same with `--method
fedavg`. The script prints the accuracy over all test samples of the 900 clients that train and of the 100 others, with
all classes allowed and without absent classes. The paper (arXiv:2306.05515, Table 1) reports 88.2 % on the unseen
clients, and does not say which of the two it is. `--rounds 3 --clients 20 --device cpu` tests the script.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from fedsim.config.resolve import find_config, resolve
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.simulation import Simulation

PAPER = 88.2
METHODS = {"pefll": {}, "fedavg": {"strategy": "fedavg", "eval_clients": "all"}}


def main(
    data_root: Annotated[Path | None, typer.Option(help="Folder with CIFAR-10.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and figures.")] = Path("pefll_gpu"),
    method: Annotated[str, typer.Option(help="pefll or fedavg.")] = "pefll",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 1,
    minutes: Annotated[float, typer.Option(help="Approximate duration of this call.")] = 7.0,
    rounds: Annotated[int, typer.Option(help="Rounds; use fewer to test the script.")] = 5000,
    clients: Annotated[int, typer.Option(help="Clients; a tenth of them is unseen.")] = 1000,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dataset: Annotated[str, typer.Option(help="Use another data set to test the script.")] = "cifar10",
) -> None:
    """Continue a run for some minutes."""
    begun = time.monotonic()
    every = max(1, min(250, rounds))
    shared = {
        "seed": seed, "rounds": rounds, "clients": clients, "clients_unseen": clients // 10, "eval_every": every,
        "data.name": dataset, "data.root": data_root, "engine.device": device, "training.vectorize": "always",
    }  # fmt: skip
    simulation = Simulation(resolve(find_config("pefll_cifar10_paper"), METHODS[method], shared))
    folder = out / f"{method}-{clients}-{rounds}-{seed}"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    engine = simulation.engine()
    checkpoint = load_latest(folder)
    state = simulation.begin() if checkpoint is None else simulation.restore(checkpoint, engine)
    while state.round < rounds:
        metrics = simulation.step(state, engine)
        if state.round % every == 0 or state.round == rounds:
            told = {n: round(100 * v, 2) for n, v in metrics.items() if n.endswith(("pooled", "masked"))}
            print(f"{method}, round {state.round}: {json.dumps(told)}", flush=True)
        late = time.monotonic() - begun > 60 * minutes
        if late or state.round % every == 0 or state.round == rounds:
            simulation.checkpoint(state, engine).save(folder)
        if late:
            break
    if state.round < rounds:
        print(f"{method}: {state.round} of {rounds} rounds; run the same command again")
        return
    final = {name: value for line in state.metrics for name, value in line["metrics"].items()}
    lines = [
        f"{method}, seed {seed}, {rounds} rounds, {state.seconds / 60:.1f} minutes; the paper has {PAPER} % on unseen"
    ]
    for group in ("clients", "unseen"):
        rules = (f"{rule} {100 * final[f'{group}/accuracy_{rule}']:.1f} %" for rule in ("unmasked", "masked"))
        lines.append(f"{group}: {', '.join(rules)}")
    (folder / "figures.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
