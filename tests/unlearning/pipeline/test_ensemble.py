"""Members equal the runs of their seeds, are trained once, and never see a row that they leave out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.training.data import TrainingData
from unlearning.pipeline.ensemble import Ensemble, Kept, Member, member_hash, num_processes, train_members
from unlearning.pipeline.oracle import MEMBERS, retrained
from unlearning.pipeline.source import Source, open_source

EVERYTHING = frozenset({"margins", "logits", "model"})


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Source:
    return open_source(shutil.copytree(tiny_run, tmp_path / "run"))


def bits(ensemble: Ensemble) -> list[bytes]:
    return [file.read_bytes()[32:] for file in ensemble.files]


def without_seconds(kept: Kept) -> dict[str, torch.Tensor]:
    return {name: value for name, value in kept._tensors.items() if name != "seconds"}


def test_members_are_the_runs_of_their_seeds(copied: Source) -> None:
    rows = np.sort(copied.data.partition[2])
    members = [Member(0, rows), Member(1), Member(2, rows)]
    for member, kept in zip(members, train_members(copied, members, EVERYTHING), strict=True):
        data, kind = (copied.data.without(rows), "oracles") if len(member.left_out) else (copied.data, "originals")
        alone = retrained(copied, data, member.seed, kind).model.state_dict()
        ours = kept.model(copied).state_dict()
        assert ours.keys() == alone.keys()
        assert all(torch.equal(value, alone[name]) for name, value in ours.items())
        assert np.isfinite(kept.margins("train", copied.data.partition.indices)).all()
        assert kept.right("test", np.arange(480)).mean() > 0.5


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return a list that receives the training rows of every batch."""
    seen: list[np.ndarray] = []
    batch = TrainingData.batch

    def spy(self: TrainingData, index: torch.Tensor, draws: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(index.numpy().ravel().copy())
        return batch(self, index, draws)

    monkeypatch.setattr(TrainingData, "batch", spy)
    return seen


def test_no_member_ever_indexes_a_row_that_it_leaves_out(copied: Source, seen: list[np.ndarray]) -> None:
    left_out = np.sort(np.concatenate([copied.data.partition[1], copied.data.partition[4][::2]]))
    train_members(copied, [Member(5, left_out)], frozenset())
    looked_at = np.unique(np.concatenate(seen))
    assert len(looked_at) > 100
    assert not np.isin(looked_at, left_out).any()


def test_what_is_there_is_not_trained_again(copied: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Member(seed) for seed in range(3)]
    first = train_members(copied, members[:2], frozenset())
    told: list[str] = []
    more = train_members(copied, members, frozenset(), told.append)
    assert (first.trained, more.trained) == (2, 1)
    assert told == ["models: 1 to train, 2 are there"]
    monkeypatch.setattr("unlearning.pipeline.members.Simulation", None)
    assert bits(train_members(copied, members, frozenset())) == bits(more)


def test_interrupted_or_damaged_it_comes_to_the_same_margins(copied: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Member(seed) for seed in range(3)]  # one is kept, one is gone, one is damaged
    whole = [without_seconds(kept) for kept in train_members(copied, members, frozenset())]
    files = train_members(copied, members, frozenset()).files
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-1] + b"x")

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_members(copied, members, frozenset(), interrupt)
    again = train_members(copied, members, frozenset())
    assert again.trained == 2
    for before, kept in zip(whole, again, strict=True):
        after = without_seconds(kept)
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_another_recipe_or_other_rows_are_another_member(copied: Source) -> None:
    rows = np.sort(copied.data.partition[2])
    members = [Member(0), Member(1), Member(0, rows), Member(0, rows[1:])]
    hashes = {member_hash(copied, member, keep) for member in members for keep in (frozenset(), EVERYTHING)}
    assert len(hashes) == 8


def test_the_name_of_their_folder_is_no_outcome(copied: Source) -> None:
    from unlearning.pipeline.runner import unlearn

    with pytest.raises(FedsimError, match="and none of oracles, originals, members"):
        unlearn(copied.folder.path, ["neggrad"], "client=2", name=MEMBERS)


def test_processes_are_as_many_as_asked_for(copied: Source) -> None:
    config = copied.config
    asked = config.model_copy(update={"engine": config.engine.model_copy(update={"num_workers": 3})})
    assert [num_processes(asked, models) for models in (1, 16, 32, 100)] == [1, 1, 2, 3]


@pytest.mark.slow  # importing torch in two processes takes seconds
def test_processes_change_no_bit(copied: Source) -> None:
    members = [Member(seed) for seed in range(32)]
    two = copied.config.model_copy(update={"engine": copied.config.engine.model_copy(update={"num_workers": 2})})
    many = replace(copied, config=two)
    apart = [without_seconds(kept) for kept in train_members(many, members, frozenset())]
    shutil.rmtree(copied.root / "unlearned" / MEMBERS)
    for ours, kept in zip(apart, train_members(copied, members, frozenset()), strict=True):
        assert all(torch.equal(value, ours[name]) for name, value in without_seconds(kept).items())


def test_side_by_side_they_are_alike_seen_to_leave_out_rows_and_found_again(
    copied: Source, seen: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.sort(copied.data.partition[2])
    members = [Member(seed, rows) for seed in range(8)]
    tests = np.arange(480)
    alone = [kept.logits("test", tests) for kept in train_members(copied, members[:2], frozenset({"logits"}))]
    shutil.rmtree(copied.root / "unlearned" / MEMBERS)
    seen.clear()
    monkeypatch.setattr("unlearning.pipeline.ensemble.side_by_side_gain", lambda configs, data: 9.0)
    told: list[str] = []
    together = train_members(copied, members, frozenset({"logits"}), told.append)
    assert told[0] == "models: 8 to train, side by side, 0 are there"
    assert not np.isin(np.unique(np.concatenate(seen)), rows).any()
    for kept, logits in zip(together, alone, strict=False):
        np.testing.assert_allclose(kept.logits("test", tests), logits, rtol=1e-2, atol=1e-2)
    monkeypatch.setattr("unlearning.pipeline.ensemble.side_by_side_gain", None)  # nothing is measured again
    together.files[3].unlink()
    assert train_members(copied, members, frozenset({"logits"})).trained == 1
    assert train_members(copied, members[:2], frozenset({"logits"})).trained == 0
