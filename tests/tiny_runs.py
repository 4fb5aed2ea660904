"""A run of a second, as a mapping and as a command line, and the types of what runs command lines."""

from collections.abc import Callable
from typing import Any, NamedTuple

TINY: dict[str, Any] = {
    "clients": 6, "rounds": 3, "name": "tiny",
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"vectorize": "never", "epochs": 1},
    "checkpoint_every": 1,
}  # fmt: skip

TINY_FLAGS = [
    "--clients=6", "--rounds=3", "--name=tiny", "--model=mlp", "--set=model.hidden=[32]",
    "--set=training.vectorize=never", "--set=training.epochs=1", "--set=checkpoint_every=1",
]  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]
