"""Federated methods leave a history for the next request."""

from pathlib import Path

import numpy as np
import pytest

import fedsim
from tests.tiny_runs import TINY
from tests.unlearning.pipeline.small_runs import bits, same
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


@pytest.mark.slow
def test_federated_methods_leave_a_history_for_the_next(tmp_path: Path, no_pictures: None) -> None:
    """A replay leaves its rounds; retraining from a checkpoint, twice, is retraining from scratch without both."""
    run = fedsim.run(TINY, overrides={"out": str(tmp_path), "rounds": 4, "cohort": 3, "history.keep": "updates"}).folder
    first = unlearn(run, ["retrain_checkpoint"], "client=1", then=["client=4"])
    source = open_source(run)
    left = source.data.without(np.concatenate([source.data.partition[1], source.data.partition[4]]))
    assert same(bits(first.folder), retrained(source, left, 0, "oracles").model.state_dict())
    files = [str(path.relative_to(first.folder)) for path in (first.folder / "history").rglob("*")]
    assert len([name for name in files if name.endswith("round.json")]) == 4
    assert not any(name.endswith(("client-1.safetensors", "client-4.safetensors")) for name in files)
    again = unlearn(run, ["federaser"], "client=1", then=["client=4"], name="replayed")
    assert same(bits(again.folder), bits(unlearn(run / "unlearned" / "replayed", ["federaser"], "client=4").folder))
