"""Clients that training never sees: their samples are neither kept nor forgotten, and stay with the run."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.runs.checkpoint import load_model
from fedsim.runs.frozen import run_data
from tests.tiny_runs import TINY, Cli
from unlearning.pipeline.attribute import attribute
from unlearning.pipeline.deletion import planned
from unlearning.pipeline.ensemble import Member, train_members
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import Source, open_source

LAST = (4, 5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of six clients, of which training never saw the last two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        given = {"out": str(tmp_path_factory.mktemp("runs")), "clients_unseen": 2}
        return fedsim.run(TINY, overrides=given).folder


@pytest.fixture
def source(trained: Path, tmp_path: Path) -> Source:
    return open_source(shutil.copytree(trained, tmp_path / "run"))


def held(source: Source, clients: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([source.everyone.partition[client] for client in clients])


def test_they_are_not_kept(source: Source) -> None:
    request = parse_forget("client=1", source.data, 0, everyone=source.everyone)
    assert np.array_equal(request.rows, np.sort(held(source, (1,))))
    assert np.array_equal(request.retain, np.sort(held(source, (0, 2, 3))))
    assert not len(request.unseen)
    labels = source.everyone.dataset.y_train
    of_class = parse_forget("class=3", source.data, 0, everyone=source.everyone)
    assert (labels[of_class.rows] == 3).all()
    assert not np.isin(of_class.rows, held(source, LAST)).any()
    assert np.array_equal(of_class.unseen, [row for row in np.sort(held(source, LAST)) if labels[row] == 3])
    whole = len(source.data.partition.indices)
    assert len(parse_forget("random=0.1", source.data, 0, everyone=source.everyone).rows) == round(0.1 * whole)


@pytest.mark.parametrize(("spec", "named"), [("client=5", "5"), ("clients=1,4,5", "4, 5"), ("indices={rows}", "4")])
def test_none_of_them_can_be_forgotten(spec: str, named: str, source: Source, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "rows.txt").write_text(f"{held(source, (0,))[0]} {held(source, (4,))[0]}")
    done = cli("unlearn", source.root, "--method=laf", f"--forget={spec.format(rows=tmp_path / 'rows.txt')}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"training never saw client {named} (clients_unseen)" in done.err
    assert not (source.root / "unlearned").exists()


def test_models_of_the_recipe_are_those_of_the_run(source: Source) -> None:
    """The original trained again and a member come to the run's own bits, and attribution to its clients alone."""
    own = load_model(source.root / "model.safetensors")
    again = load_model(retrained(source, source.data, source.config.seed, "originals").folder / "model.safetensors")
    member = next(iter(train_members(source, [Member(source.config.seed)], frozenset({"model"})))).model(source)
    assert all(value.equal(again[name]) and value.equal(member.state_dict()[name]) for name, value in own.items())
    _, found = attribute(source.root, "test=0", "trak", "client", models=1)
    assert found.units.tolist() == [0, 1, 2, 3]


def test_they_stay_with_the_run_but_for_what_a_request_names(source: Source, cli: Cli) -> None:
    labels, unseen = source.everyone.dataset.y_train, held(source, LAST)
    outcome = unlearn(source.root, ["finetune"], "class=3", compare="retrain", seeds=1, name="first")
    told = outcome.comparison
    assert (told.clients, told.clients_left) == (4, 4)
    assert told.num_forget + told.num_retain == len(held(source, (0, 1, 2, 3)))
    count = np.count_nonzero(labels[unseen] == 3)
    assert any(
        note.startswith(f"{count} of its samples are with clients that training never saw") for note in told.notes
    )
    kept = np.sort(unseen[labels[unseen] != 3])
    after = open_source(outcome.folder)
    assert np.array_equal(np.sort(held(after, LAST)), kept)
    assert not np.isin(after.data.partition.indices, unseen).any()
    oracle = next((source.root / "unlearned" / "oracles").iterdir()).relative_to(source.root)
    assert str(oracle) not in [gone.path for gone in planned(source.root, ["class=3"])]  # it knows nothing of it
    assert str(oracle) in [gone.path for gone in planned(source.root, ["client=1"])]
    unlearn(source.root, ["retrain"], "class=3", purge=True)
    assert np.array_equal(
        np.sort(run_data(source.root, source.config).partition.indices),
        np.sort(np.concatenate([after.data.partition.indices, kept])),
    )
    assert cli("personalize", source.root, "--clients=5", "--quiet").code == 0
    cleaned = fedsim.resume(source.root, rounds=4)
    assert cleaned.folder == source.root
