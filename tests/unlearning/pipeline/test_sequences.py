"""Requests in sequence: the outcome of one is the run of the next, and nothing comes back on the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fedsim
from fedsim.models.base import Classifier
from fedsim.runs.checkpoint import load_model
from fedsim.runs.folder import RunFolder
from fedsim.runs.simulation import Simulation
from tests.tiny_runs import TINY, Cli
from unlearning.api import registry as methods
from unlearning.api.registry import Needs, UnlearningConfig, load_unlearning, unlearning
from unlearning.api.view import View
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.measure import accuracy_on
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


def bits(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "tiny")


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


def test_of_classes_kept_ones_are_told_apart_and_the_drop_is_from_the_first_model(copied: Path) -> None:
    run = open_source(copied)
    step = unlearn(copied, ["neggrad"], "class=3", name="one").folder
    source = open_source(step)
    request = parse_forget("class=4", source.data, source.config.seed)
    roles = roles_of(source, request)
    last = unlearn(step, ["neggrad"], "class=4", name="two")
    row = next(row for row in last.comparison.rows if row.name == "neggrad")
    x, y = roles.test.all()
    assert y is not None

    def right(model: Classifier, classes: list[int]) -> float:
        asked = torch.isin(y, torch.tensor(classes))
        with torch.no_grad():
            return float((model.eval()(x[asked]).argmax(1) == y[asked]).double().mean())

    kept = right(last.model, [c for c in range(10) if c not in (3, 4)])
    drop = right(run.model, [4]) - right(last.model, [4])
    assert row.mean("accuracy_kept") == pytest.approx(kept)
    assert row.mean("h_mean") == pytest.approx(2 * kept * drop / (kept + drop) if drop > 0 else 0)
    assert (last.folder / "plots" / "changes.png").exists()


def test_the_oracle_has_seen_nothing_of_all_requests(copied: Path) -> None:
    whole = open_source(copied).data
    first = unlearn(copied, ["retrain"], "client=2")
    second = unlearn(first.folder, ["retrain"], "class=4")
    gone = np.union1d(whole.partition[2], np.flatnonzero(whole.dataset.y_train == 4))
    simulation = Simulation(open_source(copied).config, data=whole.without(gone))
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(simulation.config.rounds):
        simulation.step(state, engine)
    assert same(bits(second.folder), state.tensors)
    rows = {row.name: row for row in second.comparison.rows}
    assert rows["oracle"].mean("accuracy_earlier") > 0.5  # they look like others that it has seen
    summary = RunFolder.open(second.folder).summary
    assert summary is not None
    assert summary.model_extra is not None
    assert summary.model_extra["source"]["root"] == "tiny"


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
    assert "Request after request" in (last / "report.html").read_text()
    for line in ("before", "client=2", "class=4"):
        assert any(row.startswith(line) for row in told.out.splitlines())
    on = unlearn(last, ["finetune"], "client=5").comparison.chain  # goes on from what was delivered
    assert on[:3] == chain
    assert [len(step.forgotten) for step in on[3:]] == [3]


def test_no_view_holds_what_was_forgotten_before(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spy sees every sample that methods are given; row numbers are written into the pixels."""
    load_unlearning("finetune")
    known = dict(methods._methods)
    monkeypatch.setattr(methods, "_methods", known)
    seen: list[torch.Tensor] = []

    @unlearning("spy", UnlearningConfig, needs=Needs(), forgets={"clients", "class", "samples"})
    def spy(
        model: Classifier, forget: View, retain: View | None, config: UnlearningConfig, rng: np.random.Generator
    ) -> Classifier:
        assert retain is not None
        seen.append(torch.cat([forget.x, retain.x]).flatten(1))
        return model

    monkeypatch.setattr("unlearning.pipeline.entries.load_unlearning", known.__getitem__)
    x = torch.from_numpy(open_source(copied).data.dataset.x_train).flatten(1)
    outcome = unlearn(copied, ["spy"], "client=2", then=["client=4"])
    earlier = x[np.load(copied / "unlearned" / "spy-client-2" / "forget.npy")]
    assert len(earlier)
    given = {bytes(row.numpy()) for row in seen[1]}
    unique = {bytes(row.numpy()) for row in x} - {bytes(row.numpy()) for row in seen[1]}
    assert not {bytes(row.numpy()) for row in earlier} & given
    assert {bytes(row.numpy()) for row in earlier} <= unique
    assert open_source(outcome.folder).data.partition.sizes[[2, 4]].tolist() == [0, 0]


def test_a_request_that_names_them_again_is_told_so(cli: Cli, copied: Path) -> None:
    outcome = unlearn(copied, ["finetune"], "client=2")
    told = cli("unlearn", outcome.folder, "--method=finetune", "--forget=client=2")
    assert told.code == 2
    assert "client 2 has no training sample, so there is nothing to forget; forgotten before: client=2" in told.err
    again = cli("unlearn", copied, "--method=finetune", "--forget=client=2", "--then=client=2")
    assert "forgotten before: client=2" in again.err


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
