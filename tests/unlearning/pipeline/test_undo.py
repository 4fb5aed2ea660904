"""One request of a sequence is taken back, the others are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.runs.checkpoint import load_model
from tests.tiny_runs import Cli
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source
from unlearning.pipeline.undo import undo


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "model.safetensors")


@pytest.fixture(scope="module")
def chain(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with three requests, one after another."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("chain") / "tiny")
    unlearn(run, ["neggrad"], "class=3", then=["client=2", "class=4"], name="all")
    return run


def test_what_the_others_have_added_is_left(chain: Path, cli: Cli) -> None:
    outcome = cli("undo", chain / "unlearned" / "all-3", "--request=client=2", "--name=back")
    assert outcome.code == 0, outcome.err
    before, after, end = (weights(chain / "unlearned" / name) for name in ("all", "all-2", "all-3"))
    for name, value in weights(chain / "unlearned" / "back").items():
        assert torch.allclose(value, end[name] - (after[name] - before[name]), rtol=0, atol=1e-6)
    source, run = open_source(chain / "unlearned" / "back"), open_source(chain).data
    assert [earlier.spec for earlier in source.earlier] == ["class=3 + class=4"]
    left = run.without(np.flatnonzero(np.isin(run.dataset.y_train, [3, 4])))
    assert source.data.content_hash == left.content_hash  # what was forgotten of client 2 is known again
    assert "undo" in cli("show", chain / "unlearned" / "back").out


def test_the_last_one_taken_back_is_the_model_before_it(chain: Path) -> None:
    found = undo(chain / "unlearned" / "all-2", "client=2", name="first")
    for name, value in found.model.state_dict().items():
        assert torch.allclose(value, weights(chain / "unlearned" / "all")[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("folder", "request_", "line"),
    [
        ("unlearned/all-3", "class=5", r"^--request class=5: is not a request of this sequence; .*class=3"),
        ("unlearned/all", "class=3", r"is not the outcome of a sequence of requests"),
        (".", "class=3", r"is not the outcome of a sequence of requests"),
    ],
)
def test_what_cannot_be_taken_back_is_refused(chain: Path, folder: str, request_: str, line: str) -> None:
    before = sorted((chain / "unlearned").iterdir())
    with pytest.raises(FedsimError, match=line):
        undo(chain / folder, request_)
    assert sorted((chain / "unlearned").iterdir()) == before
