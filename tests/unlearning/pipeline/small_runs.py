"""Small runs with a history, and what is left of them."""

from pathlib import Path
from typing import Any

import torch

import fedsim
from fedsim.flower.records import Tensors
from fedsim.runs.checkpoint import load_model
from tests.tiny_runs import TINY

RUN: dict[str, Any] = {**TINY, "cohort": 4, "rounds": 4, "history": {"keep": "updates"}}


def train(out: Path, **overrides: Any) -> Path:
    return fedsim.run(RUN, overrides={"out": str(out), **overrides}).folder


def bits(folder: Path) -> Tensors:
    return load_model(folder / "model.safetensors")


def same(one: Tensors, two: Tensors) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
