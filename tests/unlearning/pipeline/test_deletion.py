"""A deletion lasts: nothing in the folder gives a contribution back, and no later command looks at what is gone."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedsim
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.errors import FedsimError
from fedsim.privacy.ledger import Ledger
from fedsim.runs.folder import RunFolder
from tests.tiny_runs import Cli
from tests.unlearning.pipeline.small_runs import bits, same, train
from unlearning.pipeline.deletions import read_deletions
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


def forgetting(folder: Path, method: str = "retrain") -> None:
    for spec in ("client=3", "client=5", "class=2"):
        unlearn(folder, [method], spec, purge=True)


def blind(monkeypatch: pytest.MonkeyPatch, rows: np.ndarray) -> None:
    """Replace these training rows by noise, labels included, wherever the data set is loaded."""
    rng = np.random.default_rng(0)

    def loaded(*arguments: Any) -> Dataset:
        dataset = load_dataset(*arguments)
        x, y = dataset.x_train.copy(), dataset.y_train.copy()
        x[rows] = rng.integers(0, 256, x[rows].shape)
        y[rows] = rng.integers(0, 10, len(rows))
        return replace(dataset, x_train=x, y_train=y, mean=(rng.random(),), std=(rng.random() + 0.1,))

    for module in ("fedsim.runs.frozen", "fedsim.data.federation"):
        monkeypatch.setattr(f"{module}.load_dataset", loaded)


def test_forgetting_in_sequence_then_more_rounds_is_never_having_known(
    tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every forgotten row may be replaced by noise after the command that forgot it: no command reads it."""
    folder = train(tmp_path)
    whole = open_source(folder).data
    class_two = np.intersect1d(whole.partition.indices, np.flatnonzero(whole.dataset.y_train == 2))
    gone = np.empty(0, np.int64)
    for spec, rows in (("client=3", whole.partition[3]), ("client=5", whole.partition[5]), ("class=2", class_two)):
        unlearn(folder, ["retrain"], spec, purge=True)
        gone = np.union1d(gone, rows)
        with monkeypatch.context() as patch:
            blind(patch, gone)
            assert open_source(folder).data.content_hash == RunFolder.open(folder).environment["data_sha256"]
    never = replace(whole.without(gone))
    config = open_source(folder).config.model_copy(update={"rounds": 6})
    from fedsim.runs.simulation import Simulation

    simulation = Simulation(config, data=never)
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(6):
        simulation.step(state, engine)
    with monkeypatch.context() as patch:
        blind(patch, gone)
        fedsim.resume(folder, rounds=6)
        assert same(bits(folder), state.tensors)
        with pytest.raises(FedsimError, match="nothing to forget; forgotten before: client=3, client=5, class=2"):
            unlearn(folder, ["retrain"], "client=3")
        again = unlearn(folder, ["retrain"], "client=0")
    oracle = Simulation(config, data=never.without(whole.partition[0]))
    last, engine = oracle.begin(), oracle.engine()
    for _ in range(6):
        oracle.step(last, engine)
    assert same(bits(again.folder), last.tensors)
    assert read_deletions(folder).specs == ["client=3", "client=5", "class=2"]
    assert read_deletions(folder).clients == [3, 5]


def test_a_dry_run_lists_and_changes_nothing(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = cli("unlearn", folder, "--method=finetune", "--forget=client=2", "--purge", "--dry-run")
    assert told.code == 0, told.err
    assert "checkpoints" in told.out
    assert "partition.npz" in told.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_a_run_has_shown_stays_told_when_it_goes_on(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    """After a purge, and in a run of an outcome's own: what was released before, by the method, and since."""
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    before = Ledger.read(folder)
    plain = unlearn(folder, ["finetune"], "client=1", name="plain").folder
    assert cli("run", "--resume", plain, "--rounds", "5", "--quiet").code == 0
    unlearn(folder, ["finetune"], "client=2", purge=True)
    told = cli("run", "--resume", folder, "--rounds", "5", "--quiet")
    assert told.code == 0, told.err
    for run in (folder, tmp_path / "tiny-plain"):
        first, method, since = Ledger.read(run).parts
        assert (first.rounds, first.took_part) == (before.rounds, before.took_part)
        assert "finetune" in method.releases[0].note + method.releases[0].what
        assert since.rounds == 5 - before.rounds
