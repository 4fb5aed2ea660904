"""Requests in one call are a chain of folders."""

import shutil
from pathlib import Path

import numpy as np
import torch

from fedsim.runs.checkpoint import load_model
from tests.tiny_runs import Cli
from tests.unlearning.pipeline.small_runs import bits, same
from unlearning.api.view import View
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.measure import accuracy_on
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


def test_one_call_is_a_chain_of_folders(copied: Path, tmp_path: Path) -> None:
    """With a second seed, whose models go on too."""
    other = shutil.copytree(copied, tmp_path / "other" / "tiny")
    together = unlearn(copied, ["neggrad"], "client=2", then=["random=0.05"], name="all", seeds=2)
    step = unlearn(other, ["neggrad"], "client=2", name="all", seeds=2).folder
    step = unlearn(step, ["neggrad"], "random=0.05", name="all-2", seeds=2).folder
    assert (step.parent, together.folder.name) == (other / "unlearned", "all-2")
    for name in ("all", "all-2"):
        one, two = (run / "unlearned" / name for run in (copied, other))
        assert same(bits(one), bits(two))
        assert np.array_equal(np.load(one / "forget.npy"), np.load(two / "forget.npy"))
        assert same(*(load_model(folder / "seeds" / "1.safetensors") for folder in (one, two)))
    assert {row.name for row in together.comparison.rows} == {"original", "neggrad", "finetune", "constant"}


def test_the_chain_tells_what_is_known_of_each_request_after_each(cli: Cli, copied: Path) -> None:
    """Each model goes on from its own; the figures are those of the models in the folders."""
    call = ["unlearn", copied, "--method=retrain", "--forget=client=2", "--then=class=4", "--seeds=1", "--name=all"]
    told = cli(*call)
    assert told.code == 0, told.err
    last = copied / "unlearned" / "all-2"
    chain = read_comparison(last).chain
    assert [(step.spec, step.model, len(step.forgotten)) for step in chain] == [
        ("client=2", "original", 1), ("client=2", "oracle", 1), ("class=4", "oracle", 2)
    ]  # fmt: skip
    source = open_source(last)
    whole = open_source(copied).data
    for step, folder in zip(chain, (copied, copied / "unlearned" / "all", last), strict=True):
        model = open_source(folder).model
        for value, rows in zip(step.forgotten, (request.rows for request in source.earlier), strict=False):
            x = torch.from_numpy(whole.dataset.x_train[rows])
            view = View(x, torch.from_numpy(whole.dataset.y_train[rows]), whole.dataset.mean, whole.dataset.std)
            assert value == accuracy_on(model, view)
    assert chain[-1].forgotten[1] == 0.0  # nobody has seen that class
    assert "Sequence of requests" in (last / "report.html").read_text()
    for line in ("before", "client=2", "class=4"):
        assert any(row.startswith(line) for row in told.out.splitlines())
    on = unlearn(last, ["finetune"], "client=5").comparison.chain  # goes on from what was delivered
    assert on[:3] == chain
    assert [len(step.forgotten) for step in on[3:]] == [3]
