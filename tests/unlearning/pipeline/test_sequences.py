"""Requests in sequence: the outcome of one is the run of the next, and nothing comes back on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.models.base import Classifier
from fedsim.runs.folder import RunFolder
from fedsim.runs.simulation import Simulation
from tests.tiny_runs import Cli
from tests.unlearning.pipeline.small_runs import bits, same
from unlearning.api import registry as methods
from unlearning.api.registry import Needs, UnlearningConfig, load_unlearning, unlearning
from unlearning.api.view import View
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


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
