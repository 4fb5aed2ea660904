"""Clients that stay: whose samples count, who is woken and what is read."""

import shutil
from pathlib import Path

import pytest
import torch

from fedsim.errors import FedsimError
from tests.unlearning.federations import ALL, apply, federation, largest_gap, train
from unlearning.api.federation import Federation
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.source import Source, open_source


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm"])
def test_samples_of_clients_that_stay(tmp_path: Path, strategy: str) -> None:
    """Half of a client's samples: a replay is retraining, and what was sent with them is not looked at."""
    source = train(tmp_path, strategy=strategy)
    half = source.data.partition[2][::2]
    fed = Federation(source.config, source.data, source.data.without(half), source.folder.path, ALL)
    assert (fed.forgotten, fed.touched) == (frozenset(), frozenset({2}))
    tensors = apply("retrain_checkpoint", fed)
    oracle = retrained(source, fed.left, source.config.seed, "oracles")
    assert all(torch.equal(value, tensors[name]) for name, value in oracle.model.state_dict().items())
    for file in source.folder.path.glob("history/*/client-2.safetensors"):
        file.unlink()
    for method in ("federaser", "fedaccum"):
        again = Federation(source.config, source.data, source.data.without(half), source.folder.path, ALL)
        assert all(value.isfinite().all() for value in apply(method, again).values())


def test_only_those_that_stay_are_woken_and_read(kept: Source, tmp_path: Path) -> None:
    """With what client 1 sent removed, nothing changes for the methods that forget it."""
    copied = open_source(shutil.copytree(kept.folder.path, tmp_path / "run"))
    for file in copied.folder.path.glob("history/*/client-1.safetensors"):
        file.unlink()
    for name in ("federaser", "fedaccum"):
        one, two = federation(kept, 1), federation(copied, 1)
        assert largest_gap(apply(name, one), apply(name, two)) == 0
    took_part = sum(len(kept_round.staying) for kept_round in federation(kept, 1).rounds[1:])
    fed = federation(kept, 1)
    apply("federaser", fed)
    assert fed.costs()["clients_woken"] == took_part
    with pytest.raises(FedsimError, match=r"client-1.safetensors: is not what the run kept"):
        apply("fedaccum", federation(copied, 2))
