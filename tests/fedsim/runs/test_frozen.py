"""After a deletion a run only uses the remaining data: training rows, and test rows of the remaining people."""

from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.runs.frozen import freeze, run_data
from tests.tiny_runs import Cli
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


@pytest.fixture
def people(tmp_path: Path, no_pictures: None) -> Path:
    """A run of six people, each with images of its own in the shared test set."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (180, 4, 4), np.uint8), np.arange(180) % 3
    np.savez(
        tmp_path / "people.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:],
        identity_train=np.arange(120) % 6 * 10, identity_test=np.arange(60) % 6 * 10,
    )  # fmt: skip
    config = {
        "data": {"name": f"npz:{tmp_path}/people.npz", "partition": "natural"}, "clients": 6, "rounds": 2,
        "model": {"name": "mlp", "hidden": [4]},
    }  # fmt: skip
    return fedsim.run(config, overrides={"out": str(tmp_path), "name": "people"}).folder


def test_a_person_s_own_test_rows_go_with_it(people: Path, tmp_path: Path) -> None:
    data = open_source(people).data
    theirs = data.dataset.identity_test
    assert theirs is not None
    left = data.without(data.partition[2])
    kept = np.flatnonzero(theirs != 20)
    assert np.array_equal(left.dataset.x_test, data.dataset.x_test[kept])
    assert left.tests is not None
    assert np.array_equal(left.tests, kept)
    for client in range(6):  # who was to be measured on rows that stay still is, on the same ones
        before = [row for row in data.client_test[client] if theirs[row] != 20]
        assert np.array_equal(kept[left.client_test[client]], before)
    twice = left.without(left.partition[4])
    assert twice.tests is not None
    assert np.array_equal(twice.tests, np.flatnonzero(~np.isin(theirs, [20, 40])))
    freeze(tmp_path, twice)
    again = run_data(tmp_path, open_source(people).config)
    assert again.content_hash == twice.content_hash
    assert np.array_equal(again.client_test.indices, twice.client_test.indices)
    some = data.without(data.partition[2][:5])  # of whom other rows stay
    assert some.tests is None


def test_no_later_command_measures_on_them(cli: Cli, people: Path) -> None:
    whole = open_source(people).data.dataset
    own = {row.tobytes() for row in whole.x_test[np.asarray(whole.identity_test) == 20]}

    def known(folder: Path) -> set[bytes]:
        return own & {row.tobytes() for row in open_source(folder).data.dataset.x_test}

    outcome = unlearn(people, ["finetune"], "client=2").folder
    assert len(known(people)) == 10
    assert not known(outcome)
    last = unlearn(outcome, ["finetune"], "client=4", purge=True).folder
    assert not known(last) | known(people)
    told = cli("run", "--resume", people, "--rounds", "3", "--quiet")
    assert told.code == 0, told.err
    assert len(open_source(people).data.dataset.y_test) == 40


def test_a_run_made_like_one_that_has_forgotten_knows_no_more(cli: Cli, people: Path, tmp_path: Path) -> None:
    """By --config, by start, or by both; of the run itself, or of an outcome."""
    outcome = unlearn(people, ["finetune"], "client=2").folder
    again = ("run", "--config", people, f"--out={tmp_path}", "--quiet")
    assert cli(*again, "--name=before").code == 0  # the run itself has not forgotten yet
    assert open_source(tmp_path / "before").data.partition.sizes[2] > 0
    told = cli(*again, "--name=start", f"--set=start={outcome}")
    assert told.code == 0, told.err
    unlearn(people, ["finetune"], "client=4", purge=True)
    assert cli(*again, "--name=again").code == 0
    for name, client in (("start", 2), ("again", 4)):
        made = tmp_path / name
        assert np.flatnonzero(open_source(made).data.partition.sizes == 0).tolist() == [client]
        said = cli("unlearn", made, "--method=finetune", f"--forget=client={client}").err
        assert f"nothing to forget; forgotten before: client={client}" in said
        assert "nothing was deleted" in cli("receipts", made, "--verify").out  # its receipts are the other run's
    split = cli(*again, "--name=split", "--seed=1")
    assert (split.code, "another split of it would bring them back" in split.err) == (2, True)
