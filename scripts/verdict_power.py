"""Error rates of the verdict: retrained models compared with retrained models, and planted remnants of the original.

For the testbed (`forgetting_digits`, client 3) N originals and N oracles are trained, one pair per seed. In each of 200
draws, three pairs serve as original and oracle, and three oracles of other seeds are judged: this is the null. For the
power curve the judged weights are (1 - s) times those of the oracle plus s times those of the original of its seed.

Run `python scripts/verdict_power.py --out FOLDER`. It takes about 5 minutes on one CPU core. An interrupted run
continues where it stopped. `--config fedavg_digits` gives the figures of a run that memorises little.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import fedsim
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.judgement import Contestant, verdict_on
from unlearning.pipeline.measure import Measured, measure
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.roles import Roles, assign_roles
from unlearning.pipeline.source import open_source

SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SEEDS_JUDGED = 3


@torch.no_grad()
def mixed(oracle: Classifier, original: Classifier, share: float) -> Classifier:
    """Return a model whose weights are (1 - share) times the oracle's and share times the original's."""
    out = copy.deepcopy(oracle)
    theirs: Mapping[str, torch.Tensor] = original.state_dict()
    for name, value in out.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], share)
    return out


def verdict_of(models: list[Measured], oracles: list[Measured], originals: list[Measured], kind: str) -> str:
    """Return the verdict on these models."""
    contestants = {
        "judged": Contestant("method", None, models),
        "oracle": Contestant("oracle", None, oracles),
        "original": Contestant("original", None, originals),
    }
    found = verdict_on("judged", contestants, kind)
    assert found is not None
    return found.label


def main(
    out: Annotated[Path, typer.Option(help="Folder for the run and its members.")],
    config: Annotated[str, typer.Option(help="A preset or a YAML file.")] = "forgetting_digits",
    forget: Annotated[str, typer.Option(help="What to forget.")] = "client=3",
    pairs: Annotated[int, typer.Option(help="Originals and oracles.")] = 16,
    draws: Annotated[int, typer.Option(help="Verdicts per share.")] = 200,
    first_seed: Annotated[int, typer.Option(help="Seed of the run; the other models use the next ones.")] = 0,
) -> None:
    """Print the verdicts by the share of the original in the judged models."""
    run = out / f"{config}-{first_seed}"
    if not (run / "summary.json").exists():
        overrides = {"name": run.name, "out": str(out), "seed": first_seed, "history.keep": "none"}
        fedsim.run(config, overrides=overrides, force=run.exists())
    source = open_source(run)
    request = parse_forget(forget, source.data, source.config.seed)
    roles: Roles = assign_roles(source.data, request, source.config.seed, source.device)
    left = source.data.without(request.rows)
    measured: dict[float, list[Measured]] = {share: [] for share in SHARES}
    for seed in range(first_seed, first_seed + pairs):
        oracle = retrained(source, left, seed, "oracles").model
        original = retrained(source, source.data, seed, "originals").model
        for share in SHARES:
            model = mixed(oracle, original, share)
            measured[share].append(measure(model, roles, source.config.seed, measured[0.0][-1] if share else None))
    rng = generator(first_seed, "verdict-draws")
    drawn = [rng.permutation(pairs)[: 2 * SEEDS_JUDGED] for _ in range(draws)]
    print(f"{config}, {forget}: {pairs} pairs, {draws} draws of {SEEDS_JUDGED} seeds")
    for share in SHARES:
        found: Counter[str] = Counter()
        for rows in drawn:
            judged, known = rows[:SEEDS_JUDGED], rows[SEEDS_JUDGED:]
            ours = [measured[share][i] for i in judged]
            oracles, originals = ([measured[side][i] for i in known] for side in (0.0, 1.0))
            found[verdict_of(ours, oracles, originals, request.kind)] += 1
        mean = float(np.mean([run.values["accuracy_forget"] for run in measured[share]]))
        shares = ", ".join(f"{label} {count / draws:.1%}" for label, count in sorted(found.items()))
        print(f"{share:5.0%} of the original: accuracy on the forgotten {mean:.1%}; {shares}", flush=True)


if __name__ == "__main__":
    typer.run(main)
