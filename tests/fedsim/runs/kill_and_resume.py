"""Run a federation, kill it again and again, and resume it each time; prints what it ends with, as JSON.

    python -m tests.fedsim.runs.kill_and_resume FOLDER STRATEGY SEED

Every attempt is a forked child that kills itself with SIGKILL at some event: a chunk trained, a file synced, linked,
renamed or removed. In some cases it is killed from outside instead, after some time.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim.runs import runner
from tests.scripts.load import script

dying_at = script("tortures.dying").dying_at

CASES = 4  # every third is killed from outside

Point = tuple[str, float]
"""("event", number) or ("time", seconds)."""


def config(strategy: str, name: str, folder: str) -> dict[str, Any]:
    """Return a run of five rounds in which three of eight clients take part."""
    return {
        "strategy": strategy, "name": name, "out": folder, "clients": 8, "cohort": 3, "rounds": 5,
        "checkpoint_every": 2, "eval_every": 5, "training": {"vectorize": "never", "chunk": 2},
        "engine.state_memory_mb": 0, "data.max_per_class": 20, "data.partition": "iid",
        "history": {"keep": "updates", "every": 2},
    }  # fmt: skip


def attempt(work: Callable[[], object], point: Point | None, count_file: Path | None = None) -> bool:
    """Do the work in a child that is killed at `point`; returns whether it got through."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            runner._write_pictures = lambda folder: None
            dying_at(int(point[1]) if point and point[0] == "event" else -1, count_file)()
            work()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    if point is not None and point[0] == "time":
        time.sleep(point[1])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if status not in (0, signal.SIGKILL):
        raise RuntimeError(f"the run itself failed at {point}")
    return status == 0


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a finished run is to be compared by: all but times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "sha256": json.loads((folder / "summary.json").read_text())["model_sha256"],
        "rounds": [line["round"] for line in lines],
        "metrics": [
            {n: v for n, v in line["metrics"].items() if n != "train/clients_per_s"} for line in lines
        ],
        "history": {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (folder / "history").rglob("*")
            if path.is_file()
        },
        "checkpoint": max(path.name for path in (folder / "checkpoints").iterdir()),
        "left": sorted(path.name for path in folder.iterdir() if path.name.startswith(".")),
    }  # fmt: skip


def main(folder: str, strategy: str, seed: str) -> None:
    """Run undisturbed, then disturbed several times."""
    rng = random.Random(f"{strategy} {seed}")
    counts = Path(folder) / "count"
    begun = time.perf_counter()
    assert attempt(lambda: runner.run(config(strategy, "whole", folder)), None, counts)
    seconds, events = time.perf_counter() - begun, int(counts.read_text())
    told: dict[str, Any] = {"whole": outcome(Path(folder) / "whole"), "killed": [], "points": []}
    for case in range(CASES):
        run = Path(folder) / f"case-{case}"
        by_event = case % 3 < 2
        done, kills = False, 0
        while not done:
            # The folder is made first: before that there is nothing to resume.
            first, last = (8, events) if not (run / "checkpoints").exists() else (1, events // 3)
            point: Point = (
                ("event", rng.randint(first, last)) if by_event else ("time", rng.uniform(0.2, 0.9) * seconds)
            )
            begin = not (run / "metrics.jsonl").exists()
            if begin:
                shutil.rmtree(run, ignore_errors=True)
            work = (
                (lambda c=case: runner.run(config(strategy, f"case-{c}", folder)))
                if begin
                else (lambda r=run: runner.resume(r))
            )
            done = attempt(work, point if kills < 3 else None)
            kills += not done
            told["points"].append([case, *point, done])
        told["killed"].append({"kills": kills, **outcome(run)})
    before = outcome(run)
    assert attempt(lambda: runner.resume(run), None)
    told["resumed again"] = [before, outcome(run)]
    print(json.dumps(told))  # noqa: T201  # for the test


if __name__ == "__main__":
    main(*sys.argv[1:])
