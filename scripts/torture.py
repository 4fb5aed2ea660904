"""Break runs on purpose, and count lost runs, silent changes and tracebacks.

    python scripts/torture.py --minutes 30                   # continues earlier trials; about 1 to 3 seconds a trial
    python scripts/torture.py --minutes 30 --kinds ray_worker,ray_second_node --seed 1        # on Ray: a minute each

A trial is drawn from its number and `--seed`. A run, an unlearning or two of them at once are killed, signalled, given
a full disk, started at the same time, or given a file with a flipped bit. Then the script completes everything as a
user would, with the commands that the error lines propose. Each trial ends as

    same     the bits are those of an undisturbed run
    told     there was one error line, and its proposal leads to the same bits
    lost     neither: the run cannot be completed
    silent   the bits are different, and there was no message
    crash    there was a traceback, or more than one error line

`trials.jsonl` in `--out` has one line per trial. The table is printed at the end. The script exits with 1 if a trial
ended as one of the last three.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tortures import alone, on_ray
from tortures.dying import dying_at
from tortures.trial import BAD, RECIPES, SHARED, Failed, Trial, Whole, text_of

KINDS: dict[str, tuple[Callable[[Trial], None], float]] = {
    "kill_at_event": (alone.kill_at_event, 4), "kill_at_time": (alone.kill_at_time, 3),
    "signalled": (alone.signalled, 2), "full_disk": (alone.full_disk, 2), "flip_half": (alone.flip_half, 3),
    "flip_whole": (alone.flip_whole, 3), "flip_unlearned": (alone.flip_unlearned, 2),
    "two_starts": (alone.two_starts, 2), "replaced": (alone.replaced, 2),
    "two_unlearnings": (alone.two_unlearnings, 1), "goes_away": (alone.goes_away, 1),
    "ray_worker": (on_ray.ray_worker, 0), "ray_raylet": (on_ray.ray_raylet, 0), "ray_gcs": (on_ray.ray_gcs, 0),
    "ray_agent": (on_ray.ray_agent, 0), "ray_second_raylet": (on_ray.ray_second_raylet, 0),
    "ray_second_node": (on_ray.ray_second_node, 0), "ray_head": (on_ray.ray_head, 0),
}  # fmt: skip
"""Kind of disturbance -> its frequency. Slow kinds are only used if `--kinds` names them."""


# The campaign ---------------------------------------------------------------------------------------------------------


def prepare(out: Path, name: str) -> Whole:
    """Return the undisturbed run of a recipe; run it if it is missing."""
    folder = out / "whole" / name
    flags = [*RECIPES[name], *SHARED]
    facts = folder / "facts.json"
    if not facts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        blank = Whole(flags, folder / "run", folder / "half", 0, 0.0)
        trial = Trial(-1, folder, random.Random(0), blank)
        begun = time.perf_counter()
        assert trial.begin(before=dying_at(-1, folder / "count")).wait().code == 0
        seconds = time.perf_counter() - begun
        events = int((folder / "count").read_text())
        for event in range(1, events):  # killed right after the first checkpoint
            other = Trial(-1, folder / "halves", random.Random(0), blank)
            shutil.rmtree(other.folder, ignore_errors=True)
            other.folder.mkdir()
            other.begin(before=dying_at(events // 2 + event)).wait()
            if list(other.run.glob("checkpoints/round-*")) and not (other.run / "summary.json").exists():
                other.run.rename(blank.half)
                break
        facts.write_text(json.dumps({"events": events, "seconds": seconds}))
    return Whole(flags, folder / "run", folder / "half", **json.loads(facts.read_text()))


def try_once(number: int, seed: int, out: Path, kinds: list[str], recipes: list[str]) -> dict[str, Any]:
    """Return the result of one trial."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(kinds, [KINDS[name][1] or 1 for name in kinds])[0]
    recipe = rng.choice(recipes)
    whole = prepare(out, recipe)
    folder = Path(tempfile.mkdtemp(prefix=f"{number:06d}-", dir=out))
    trial = Trial(number, folder, rng, whole)
    begun = time.perf_counter()
    verdict, seen = "same", ""
    try:
        KINDS[kind][0](trial)
        verdict = "told" if trial.told else "same"
        left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
        if left:
            verdict, seen = "lost", f"left behind: {left}"
    except Failed as failed:
        verdict, seen = failed.args
    if verdict not in BAD:
        shutil.rmtree(folder)
    seconds = round(time.perf_counter() - begun, 2)
    told = {"number": number, "kind": kind, "recipe": recipe, "verdict": verdict, "seconds": seconds}
    return told | {"notes": trial.notes, **({"seen": seen, "kept": str(folder)} if seen else {})}


def trials_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the trials so far."""
    for line in text_of(file).splitlines():
        with contextlib.suppress(ValueError):  # an incomplete line
            yield json.loads(line)


def table(trials: list[dict[str, Any]]) -> str:
    """Return a table: the number of trials by kind and result."""
    verdicts = ("same", "told", *BAD)
    counts = Counter((trial["kind"], trial["verdict"]) for trial in trials)
    lines = [f"| {'kind':<16} | trials | " + " | ".join(verdicts) + " |", "| --- |" + " ---: |" * (len(verdicts) + 1)]
    for kind in [*dict.fromkeys(trial["kind"] for trial in trials), None]:
        row = [sum(n for (k, v), n in counts.items() if v == verdict and kind in (k, None)) for verdict in verdicts]
        lines.append(f"| {kind or 'all':<16} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run trials for some minutes; return 1 if one of them ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--trials", type=int, default=10**9, help="stop after this many trials, earlier calls included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fedsim-torture")
    parser.add_argument("--kinds", default=",".join(name for name, (_, weight) in KINDS.items() if weight))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"trials-{given.seed}.jsonl"
    done = list(trials_of(file))
    until = time.monotonic() + 60 * given.minutes
    with file.open("a", encoding="utf-8") as log:
        while time.monotonic() < until and len(done) < given.trials:
            number = max((trial["number"] for trial in done), default=-1) + 1
            done.append(try_once(number, given.seed, given.out, given.kinds.split(","), given.recipes.split(",")))
            log.write(json.dumps(done[-1]) + "\n")
            log.flush()
            if done[-1]["verdict"] in BAD:
                print(json.dumps(done[-1], indent=1), flush=True)
    print(table(done))
    return int(any(trial["verdict"] in BAD for trial in done))


if __name__ == "__main__":
    sys.exit(main())
