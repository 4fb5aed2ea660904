"""`fedsim attribute` from the command line to the folder, and what it must not look at."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.errors import FedsimError
from tests.tiny_runs import TINY, Cli
from unlearning.pipeline.attribute import attribute, time_of
from unlearning.pipeline.purge import plan
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "run")


def test_samples_from_the_command_line(run: Path, cli: Cli) -> None:
    told = cli("attribute", run, "--of=test=0,5-6", "--models=2", "--name=samples")
    assert told.code == 0, told.err
    assert "most helpful: training sample" in told.out
    folder = run / "attributions" / "samples"
    with np.load(folder / "scores.npz", allow_pickle=False) as found:
        scores, targets, units = found["scores"], found["targets"], found["units"]
    assert targets.tolist() == [0, 5, 6]
    assert scores.shape == (3, len(units))
    data = open_source(run).data
    assert np.array_equal(units, np.sort(data.partition.indices))
    # What helps is mostly of the class, what harms is not: the best of each target against the worst.
    y, y_test = data.dataset.y_train, data.dataset.y_test
    best, worst = (np.argsort(side * scores, 1)[:, :10] for side in (-1, 1))
    same = [(y[units[rows]] == y_test[targets][:, None]).mean() for rows in (best, worst)]
    assert same[0] > same[1] + 0.1
    page = (folder / "report.html").read_text()
    assert "Most helpful" in page
    assert "<svg" in page


def test_clients_by_datamodels_with_lds(run: Path) -> None:
    folder, made = attribute(run, "class=3", "datamodels", "client", models=6, judges=3, share=0.6)
    assert made.scores.shape == (len(made.targets), 6)
    assert (open_source(run).data.dataset.y_test[made.targets] == 3).all()
    assert made.lds is not None
    assert made.lds.models == 3
    told = json.loads((folder / "attribution.json").read_text())
    assert told["lds"]["value"] == made.lds.value
    assert "Contribution of each client" in (folder / "report.html").read_text()
    again, same = attribute(run, "class=3", "datamodels", "client", models=6, share=0.6)
    assert again != folder
    np.testing.assert_array_equal(same.scores, made.scores)


def test_the_time_of_training_is_that_of_a_mean_client(run: Path) -> None:
    source = open_source(run)
    sizes = source.data.partition.sizes
    batches = np.average(np.ceil(sizes / source.config.training.batch_size), weights=sizes)
    assert time_of(source) == pytest.approx(3 * 0.1 * batches)  # rounds, learning rate


def test_clients_add_up_their_samples(run: Path) -> None:
    _, samples = attribute(run, "test=1", "trak", "sample", models=1, dimension=64)
    _, clients = attribute(run, "test=1", "trak", "client", models=1, dimension=64)
    partition = open_source(run).data.partition
    sums = [samples.scores[0, np.isin(samples.units, partition[client])].sum() for client in range(6)]
    np.testing.assert_allclose(clients.scores[0], sums, rtol=1e-6)


def test_what_is_deleted_is_attributed_nothing(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    attribute(run, "test=1", "trak", "client", models=1, dimension=64)
    source = open_source(run)
    gone = source.data.partition[2]
    assert "attributions" in {part.path for part in plan(source, source.data.without(gone), None)}
    unlearn(run, ["finetune"], "client=2", purge=True, overrides={"epochs": 1})
    assert not (run / "attributions").exists()
    _, made = attribute(run, "test=1", "trak", "sample", models=1, dimension=64)
    assert not np.isin(gone, made.units).any()
    _, made = attribute(run, "test=1", "trak", "client", models=1, dimension=64)
    assert made.units.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"of": "test=1,x"}, "must be test=ROWS, such as test=0,5-9, or class=NUMBER"),
        ({"of": "test=480"}, "no test sample 480; they are 0 to 479"),
        ({"of": "class=10"}, "no test sample has that class"),
        ({"method": "trakk"}, "no such attribution; did you mean 'trak'"),
        ({"unit": "group"}, "must be sample or client"),
        ({"method": "datamodels"}, "need thousands of models; give a number, or use trak"),
        ({"models": 0}, "--models: must be at least 1, got 0"),
        ({"judges": 2}, "--lds: must be 0, or at least 3 models, got 2"),
        ({"share": 1.0}, "--share: must be between 0 and 1, got 1"),
    ],
)
def test_bad_input_is_one_line(run: Path, given: dict, line: str) -> None:
    before = sorted((run / "attributions").glob("*"))
    with pytest.raises(FedsimError, match=line.replace("(", r"\(")):
        attribute(run, **{"of": "test=1", "method": "trak", "unit": "sample", **given})
    assert sorted((run / "attributions").glob("*")) == before


def test_a_run_that_promises_privacy_is_not_told_of(tmp_path: Path, no_pictures: None) -> None:
    private = {"privacy.client": {"noise_multiplier": 1.0, "delta": 1e-3}, "out": str(tmp_path)}
    run = fedsim.run(TINY, overrides=private).folder
    with pytest.raises(FedsimError, match=r"promises privacy of .*--no-privacy allows that"):
        attribute(run, "test=1", "trak", "client", models=1)
    assert not (run / "attributions").exists()
    _, made = attribute(run, "test=1", "trak", "client", models=1, dimension=16, no_privacy=True)
    assert made.scores.shape == (1, 6)
