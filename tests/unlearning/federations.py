"""Small federations that have kept their history, and methods applied to them."""

from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.flower.records import Tensors
from tests.tiny_runs import TINY
from unlearning.api.federation import Federation
from unlearning.api.needs import Needs
from unlearning.api.registry import load_unlearning
from unlearning.pipeline.apply import options_of
from unlearning.pipeline.source import Source, open_source

ALL = Needs(history=True, updates=True, clients=True)

RUN = {**TINY, "cohort": 3, "rounds": 4, "history": {"keep": "updates"}}


def train(out: Path, **overrides: Any) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return open_source(fedsim.run(RUN, overrides={"out": str(out), **overrides}).folder)


def federation(source: Source, *leaving: int, needs: Needs = ALL) -> Federation:
    left = source.data
    for client in leaving:
        left = left.without(source.data.partition[client])
    return Federation(source.config, source.data, left, source.folder.path, needs)


def apply(name: str, fed: Federation, **options: Any) -> Tensors:
    method = load_unlearning(name)
    with fed:
        return method.unlearn(fed, options_of(method, options))  # type: ignore[call-arg,arg-type,return-value]


def largest_gap(one: Tensors, two: Tensors) -> float:
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in two)
