"""Silent mistakes are reported or refused before the run; the environment of a run does not break it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.runs.simulation import Simulation
from tests.strategies.small_runs import begin, finished


@pytest.mark.parametrize("method", ["fedavg", "fednova", "scaffold", "ditto", "qfedavg", "fedprox", "krum"])
def test_batches_of_one_that_train_nothing_are_refused(method):
    with pytest.raises(FedsimError, match="BatchNorm needs two samples in a batch, and no client can make one"):
        begin(method, {"training.batch_size": 1, "model.norm": "batch"})


def test_clients_of_one_sample_are_counted():
    run = begin("fedavg", {"clients": 40, "data.partition": "iid", "model.norm": "batch"})
    alone = int((run.simulation.data.partition.sizes == 1).sum())
    assert 0 < alone < 40
    assert f"{alone} of 40 clients take no step" in run.simulation.choices["idle"]
    assert run.advance(1)["train/idle_clients"] == alone
    everybody = {"clients": 4, "data.partition": "iid", "model.norm": "batch"}
    assert "train/idle_clients" not in finished("fedavg", everybody).state.metrics[-1]["metrics"]


def test_a_client_that_has_lost_its_data_is_no_idle_one():
    config = begin("fedavg", {"model.norm": "batch"}).simulation
    left = Simulation(config.config, data=config.data.without(config.data.partition[2]))
    assert "idle" not in left.choices


def test_rounds_without_a_learning_rate_are_told():
    cosine = {"rounds": 4, "training.schedule.name": "cosine"}
    told = begin("fedavg", {**cosine, "training.schedule.rounds": 2}).simulation.choices["still"]
    assert told.startswith("the learning rate is 0 from round 3 on")
    assert "still" not in begin("fedavg", cosine).simulation.choices


def test_how_many_clients_an_accuracy_is_a_mean_over_is_told():
    few = {"clients": 40, "data.client_test": "split", "data.client_test_fraction": 0.1, "model.norm": "none"}
    run = begin("ditto", {**few, "data.partition": "dirichlet"})
    able = int((run.simulation.data.partition.sizes > 0).sum())
    measured = int((run.simulation.data.client_test.sizes > 0).sum())
    assert 0 < measured < able / 2
    assert f"means over {measured} of {able} clients" in run.simulation.choices["clients"]
    assert "clients" not in begin("fedavg", few).simulation.choices  # which measures none


def test_a_personal_method_without_test_samples_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.normal(size=(40, 3)), "y_train": np.arange(40) % 2}
    np.savez(tmp_path / "t.npz", **arrays, x_test=rng.normal(size=(2, 3)), y_test=np.arange(2))
    config = resolve({"data.name": f"npz:{tmp_path / 't.npz'}", "strategy": "ditto", "clients": 10})
    with pytest.raises(FedsimError, match=r"no client has a test sample.*data\.client_test=split"):
        Simulation(config)


@pytest.mark.parametrize("method", ["fedetf", "fedrep"])
def test_a_method_with_features_refuses_a_model_without(method):
    with pytest.raises(FedsimError, match=r"model\.name: logistic has no features below its classifier"):
        Simulation(resolve({"strategy": method, "model": "logistic", "clients": 4}))


def test_no_picture_is_cut_out_of_a_table():
    with pytest.raises(FedsimError, match=r"data\.augment: crop is for images, and breast_cancer has none; use none"):
        Simulation(resolve({"data.name": "breast_cancer", "data.augment": "crop", "clients": 4}))


def test_a_terminal_without_umlauts_and_an_account_without_a_home_run_alike(tmp_path):
    changed = {"PYTHONIOENCODING": "ascii", "HOME": "/nonexistent"}
    small = ["--rounds", "1", "--clients", "2", "--model", "logistic", "--set", "data.max_per_class=5"]
    for arguments in (["run", "--quiet", "--name", "r", *small], ["show", "runs/r"]):
        done = subprocess.run(
            [sys.executable, "-m", "fedsim", *arguments], cwd=tmp_path, env=os.environ | changed, capture_output=True,
            text=True, encoding="latin-1", check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    shutil.rmtree(tmp_path / "runs")
