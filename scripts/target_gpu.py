"""TARGET on CIFAR-100, for a machine with a GPU. We have not run it so far.

Run `python scripts/target_gpu.py --data-root FOLDER --part PART` repeatedly until it prints that the part is done. Each
call stops after `--minutes`, 8 by default, and the next one continues from the last checkpoint. The parts:

- `trade-off`: two stages of 50 classes, with distillation 3, 10 and 25. In the paper's Table 3 the accuracy on old
  classes rises (28.3, 49.0 to 66.0 %) and that on new ones falls (62.5, 53.7 to 29.3 %);
- `stages`: five stages of 20 classes, with iid, Dirichlet(1) and Dirichlet(0.5) clients. The paper's Table 2 has for
  TARGET 36.31, 34.89 and 33.33 %, for fine-tuning 16.12, 16.33 and 15.49 %, for FedLwF 30.61, 30.94 and 27.59 %.

The default is a reduced schedule (20 rounds a stage, 2 epochs, 100 critic steps a round). `--full` is the preset
target_cifar100_paper; only its numbers can be compared with the paper's. `--tiny` tests everything in a minute.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import fedsim
from fedsim.config.resolve import find_config, resolve
from fedsim.runs.folder import RunFolder
from fedsim.runs.progress import QuietProgress

PRESET = "target_cifar100_paper"
SPLITS: dict[str, Any] = {
    "iid": "iid",
    "dirichlet 1": {"name": "dirichlet", "alpha": 1.0, "balance": True, "min_samples": 2},
    "dirichlet 0.5": {"name": "dirichlet", "alpha": 0.5, "balance": True, "min_samples": 2},
}
METHODS: dict[str, dict[str, Any]] = {
    "TARGET": {},
    "fine-tuning": {"strategy": {"name": "fedlwf", "penalty": 0}},
    "FedLwF": {"strategy": {"name": "fedlwf", "penalty": 3}},
}
REDUCED = {"training.epochs": 2, "eval_every": 1, "checkpoint_every": 1}
TINY: dict[str, Any] = {
    "data.max_per_class": 6, "training.epochs": 1, "training.batch_size": 32, "training.precision": "float32",
    "training.channels_last": False, "model.width": 4,
}  # fmt: skip
TINY_SYNTHESIS = {
    "strategy.synthetic_batch": 16, "strategy.synthesis.images": 32, "strategy.synthesis.rounds": 4,
    "strategy.synthesis.batch": 8, "strategy.synthesis.steps": 2, "strategy.synthesis.warmup": 1,
    "strategy.synthesis.critic_steps": 2, "strategy.synthesis.width": 4,
}  # fmt: skip


class OutOfTime(KeyboardInterrupt):
    """The time of the call is over; the run keeps its last complete round."""


class Clock(QuietProgress):
    """Shows each round, and stops a run at the time limit: between rounds, or between rounds of the server's work."""

    def __init__(self, minutes: float) -> None:
        self.end_s = time.monotonic() + 60 * minutes

    def working(self, what: str, done: int, total: int) -> None:
        """Print progress from time to time.

        The server's work is not interrupted, because it would never be completed.
        """
        if done % 10 == 0 or done == total:
            print(f"  {what}: {done}/{total}", flush=True)

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Print the accuracy, and stop if time is up."""
        if "global/accuracy" in metrics:
            print(f"  round {server_round}: {100 * metrics['global/accuracy']:.2f} %", flush=True)
        if time.monotonic() > self.end_s:
            raise OutOfTime("out of time")


def plans(part: str) -> dict[str, dict[str, Any]]:
    """Return the runs of a part: overrides of the preset by name."""
    if part == "trade-off":
        return {f"T2-{alpha}": {"data.stages.count": 2, "strategy.distillation": alpha} for alpha in (3, 10, 25)}
    return {
        f"T5-{split.replace(' ', '')}-{method}": {"data.partition": partition, **changes}
        for split, partition in SPLITS.items()
        for method, changes in METHODS.items()
    }


def configured(changes: dict[str, Any], full: bool, tiny: bool, root: Path | None) -> dict[str, Any]:
    """Return the complete configuration of a run, nested."""
    base = find_config(PRESET)
    if "strategy" in changes:
        base = {key: value for key, value in base.items() if key != "strategy"}
    synthesis = "strategy" not in changes
    layers: list[dict[str, Any]] = [base, changes]
    stages = int(changes.get("data.stages.count", 5))
    if not full:
        layers.append(REDUCED | {"rounds": (2 if tiny else 20) * stages})
        layers += [{"strategy.synthesis.critic_steps": 100}] if synthesis else []
    if tiny:
        layers += [TINY, TINY_SYNTHESIS if synthesis else {}]
    if root is not None:
        layers.append({"data.root": str(root)})
    return resolve(*layers).model_dump()


def main(
    part: Annotated[Literal["trade-off", "stages"], typer.Option(help="What to run.")] = "trade-off",
    data_root: Annotated[Path | None, typer.Option(help="Folder of CIFAR-100; else $FEDSIM_DATA.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("target_gpu"),
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    minutes: Annotated[float, typer.Option(help="Time limit of this call.")] = 8,
    full: Annotated[bool, typer.Option(help="The paper's schedule.")] = False,
    tiny: Annotated[bool, typer.Option(help="Use a few images, to test the script.")] = False,
) -> None:
    """Continue a part, and print its results so far."""
    clock = Clock(minutes)
    rows = []
    for name, changes in plans(part).items():
        folder = out / f"{name}-{seed}"
        print(name, flush=True)
        try:
            if not folder.exists():
                options = {"name": folder.name, "out": str(out), "seed": seed}
                fedsim.run(configured(changes, full, tiny, data_root), overrides=options, progress=clock)
            elif RunFolder.open(folder).status != "finished":
                fedsim.resume(folder, clock)
        except KeyboardInterrupt as stop:
            if not isinstance(stop.__context__, OutOfTime):
                raise
            print("time limit reached: the same command continues from here")
            break
        final = RunFolder.open(folder).final_metrics
        cells = [final["global/accuracy"], final["stages/accuracy_old"], final["stages/accuracy_new"]]
        rows.append(f"| {name} | {' | '.join(f'{100 * c:.2f}' for c in cells)} | {final['stages/forgetting']:.3f} |")
    else:
        print("done")
    print("\n| run | Acc % | old % | new % | F |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    typer.run(main)
