"""Small private runs and ledgers."""

from pathlib import Path
from typing import Any

import fedsim
from fedsim.privacy.guarantees import Guarantee
from fedsim.privacy.ledger import Ledger, Release

TINY = {
    "clients": 6, "rounds": 4, "eval_every": 100, "model": {"name": "mlp", "hidden": [16]},
    "data": {"max_per_class": 12}, "training": {"epochs": 2, "batch_size": 6, "vectorize": "never"},
    "checkpoint_every": 2,
}  # fmt: skip


def run(tmp_path: Path, privacy: dict[str, Any], name: str = "run", **changes: Any) -> Path:
    config = {**TINY, "privacy": privacy, "out": str(tmp_path), "name": name}
    return fedsim.run(config, overrides=changes).folder


def book(*releases: Release, rounds: int, took_part: list[int]) -> Ledger:
    return Ledger(releases=releases, rounds=rounds, took_part=took_part)


LABELS = Release(
    what="bag means", covers=("model",), mechanism="laplace", unit="response", adjacency="replaced", noise=0.5,
    when="once",
)  # fmt: skip


def by_key(rows: list[Guarantee]) -> dict[tuple[str, str, str], float]:
    return {(row.unit, row.adjacency, row.against): row.epsilon for row in rows}


def steps(**changes: Any) -> Release:
    given = {"what": "gradients", "covers": ("model",), "mechanism": "gaussian", "unit": "example", "delta": 1e-5}
    return Release(**{**given, "noise": 2.0, **changes})  # type: ignore[arg-type]
