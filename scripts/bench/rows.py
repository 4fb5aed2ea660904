"""The rows of the comparison. `python -m bench.rows` runs one of them in its own process."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.meter import Meter
from bench.workloads import WORKLOADS, Federation, Workload, flat


@dataclass
class Outcome:
    """The result of a row's rounds."""

    start: npt.NDArray[np.float32]
    """The parameters before the first round, concatenated."""
    end: npt.NDArray[np.float32]
    """The parameters after the last round, concatenated."""
    steps: int | None = None
    """Number of steps of all clients in all rounds."""
    notes: dict[str, Any] = field(default_factory=dict)


def local_sgd(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Take one step per batch."""
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()


def batches_of(federation: Federation, order: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of a client whose samples have this order."""
    x, y, size = federation.x, federation.y, federation.workload.batch
    return [
        batch for rows in order for batch in zip(torch.split(x[rows], size), torch.split(y[rows], size), strict=True)
    ]


def bare(workload: Workload, meter: Meter) -> Outcome:
    """Run the loop that one would write without a framework, one client after another.

    It has less work than any framework: samples are normalised and their order is drawn before the measurement.
    """
    federation = Federation(workload, meter.device)
    model = federation.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr)  # without momentum it keeps no state
    tensors = list(model.state_dict().values())  # the parameters and buffers themselves, not copies
    shared = [tensor.clone() for tensor in tensors]
    start = flat(list(model.parameters()))
    rounds = range(1, meter.total + 1)
    schedule = [[federation.order(r, client) for client in federation.cohort(r)] for r in rounds]
    steps = 0
    for orders in schedule:
        sums = [torch.zeros_like(tensor) for tensor in shared]
        for order in orders:
            torch._foreach_copy_(tensors, shared)
            batches = batches_of(federation, order)
            local_sgd(model, optimizer, batches)
            torch._foreach_add_(sums, tensors)
            steps += len(batches)
        shared = [(total / len(orders)).to(total.dtype) for total in sums]
        meter.lap()
    torch._foreach_copy_(tensors, shared)
    return Outcome(start, flat(list(model.parameters())), steps)


class _LocalClock:
    """Counts the steps of an in-process run, and the seconds spent in the trainer and in its SGD loop."""

    def __init__(self, trainer: Any) -> None:
        self.steps = 0
        self.spent = {"train": [0.0], "_run_phase": [0.0]}
        for name in self.spent:
            setattr(trainer, name, partial(self._timed, name, getattr(trainer, name)))

    def _timed(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        begun = time.perf_counter()
        result = call(*args)
        self.spent[name][-1] += time.perf_counter() - begun
        if name == "_run_phase":
            self.steps += int(np.count_nonzero(args[3].plan.counts))  # of the plan of its feed
        return result

    def lap(self) -> None:
        for spent in self.spent.values():
            spent.append(0.0)

    def outside(self, seconds: list[float]) -> dict[str, float]:
        """Return the fractions of the timed rounds spent outside the SGD loop, and outside the trainer."""

        def share(name: str) -> float:
            local = self.spent[name][1 : 1 + len(seconds)]
            return float(np.median([1 - a / b for a, b in zip(local, seconds, strict=True)]))

        return {"overhead": share("_run_phase"), "overhead_outside_trainer": share("train")}


def fedsim(workload: Workload, meter: Meter, *, mode: str, name: str = "inprocess", workers: int = 0) -> Outcome:
    """Run fedsim on an engine; 0 workers means the engine's default."""
    from fedsim.config.resolve import resolve
    from fedsim.garbage import quick_collections
    from fedsim.runs.simulation import Simulation

    engine: dict[str, Any] = {"engine.name": name, "engine.device": str(meter.device)}
    if workers:
        engine |= {"engine.num_workers": workers, "training.chunk": workload.ray_chunk}
    simulation = Simulation(resolve(workload.config(), {"training.vectorize": mode, **engine}))
    clock = _LocalClock(simulation.worker.trainer) if name == "inprocess" else None
    names = simulation.server.first.params
    with quick_collections(), contextlib.closing(simulation.engine()) as grid:  # as a run does
        state = simulation.begin()
        start = flat([state.tensors[name] for name in names])
        for _ in range(meter.total):
            simulation.step(state, grid)
            grid.report({"round": state.round})  # `auto` chooses by this
            meter.lap()
            if clock is not None:
                clock.lap()
        chosen = grid.notes.get("engine")
    choice = simulation.choices["vectorize"] + (f"; {chosen}" if chosen else "")
    notes: dict[str, Any] = {"choice": choice, "failures": state.failures}
    if clock is not None and meter.device.type == "cpu":  # on a GPU, kernels still run after the trainer has returned
        notes |= clock.outside(meter.seconds)
    return Outcome(start, flat([state.tensors[name] for name in names]), clock.steps if clock else None, notes)


def _flower(workload: Workload, meter: Meter) -> Outcome:
    from bench.peer_flower import flower

    return flower(workload, meter)


def _pfl(workload: Workload, meter: Meter) -> Outcome:
    from bench.peer_pfl import pfl

    return pfl(workload, meter)


Row = Callable[[Workload, Meter], Outcome]
ROWS: dict[str, Row] = {
    "bare": bare,
    "sequential": partial(fedsim, mode="never"),
    "vectorized": partial(fedsim, mode="always"),
    "auto": partial(fedsim, mode="auto"),
    "default": partial(fedsim, mode="auto", name="auto"),
    "local-2": partial(fedsim, mode="auto", name="local", workers=2),
    "ray-1": partial(fedsim, mode="auto", name="ray", workers=1),
    "ray-2": partial(fedsim, mode="auto", name="ray", workers=2),
    "flower": _flower,
    "pfl": _pfl,
}
"""fedsim in this process by cohort mode, with its defaults, on two forks, and on Ray with one and two workers; then the
peers."""


def main(task_file: str) -> None:
    """Run the row that a file describes, and write the measurements beside the file."""
    task = json.loads(Path(task_file).read_text())
    torch.set_num_threads(1)
    fields = task["workload"] if isinstance(task["workload"], dict) else WORKLOADS[task["workload"]].describe()
    workload = Workload(**{**fields, "shape": tuple(fields["shape"])})
    meter = Meter(task["rounds"], task["begun"], torch.device(task["device"]))
    outcome = ROWS[task["row"]](workload, meter)
    np.savez(task["parameters"], start=outcome.start, end=outcome.end)
    report = {**meter.report(), "steps": outcome.steps, **outcome.notes}
    Path(task["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
