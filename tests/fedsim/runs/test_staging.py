"""Runs whose classes arrive over time."""

import json

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from fedsim.errors import FedsimError
from fedsim.flower.records import to_record
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.folder import RunFolder
from fedsim.runs.runner import run
from tests.light import as_for_users
from tests.strategies.small_runs import assert_cohorts_agree, assert_same_bits, begin, finished
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.source import open_source

STAGED = {"rounds": 4, "data.stages": {"count": 2}}


def poison_earlier_stages(run, stage):
    """Overwrite, wherever clients and server could read them, all training samples of the stages before one."""
    data, train_set = run.simulation.data, run.simulation.worker.train_set
    past = np.flatnonzero(np.isin(data.dataset.y_train, data.stages.begun(stage - 1)))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (len(past), *data.dataset.input_shape), dtype=np.uint8)
    train_set.x[torch.from_numpy(past)] = torch.from_numpy(noise)
    data.dataset.x_train[past] = noise
    assert len(past)


def after_poison(strategy, overrides):
    """Return the model of a run, and of one whose earlier samples were overwritten when the second stage began."""
    clean = finished(strategy, overrides)
    poisoned = begin(strategy, overrides)
    poisoned.advance(2)
    poison_earlier_stages(poisoned, 1)
    poisoned.advance(2)
    return clean.tensors, poisoned.tensors


def test_no_sample_of_an_earlier_stage_is_read():
    assert_same_bits(*after_poison("fedavg", STAGED))
    kept, without = after_poison("fedavg", {**STAGED, "data.stages.keep": 5})
    assert any(not torch.equal(kept[name], without[name]) for name in kept)


def test_a_staged_run_resumes_to_the_same_bits(tmp_path):
    config = {**STAGED, "cohort": 3}
    whole, half = finished("fedavg", config), begin("fedavg", config)
    half.advance(3)
    half.simulation.checkpoint(half.state, half.engine).save(tmp_path)
    resumed = begin("fedavg", config, load_latest(tmp_path))
    resumed.advance(1)
    assert_same_bits(resumed.tensors, whole.tensors)
    for line, expected in zip(resumed.state.metrics, whole.state.metrics, strict=True):
        measured = {name: value for name, value in line["metrics"].items() if "clients_per_s" not in name}
        assert measured == {name: expected["metrics"][name] for name in measured}
        assert line.get("per_class") == expected.get("per_class")


def test_cohorts_agree_in_every_stage():
    assert_cohorts_agree("fedavg", {**STAGED, "model.norm": "none"})


def test_one_stage_is_a_run_without_stages():
    assert_same_bits(finished("fedavg", {"data.stages": {"count": 1}}).tensors, finished("fedavg").tensors)


def test_clients_that_have_nothing_in_a_stage_are_not_as_for_users():
    run = begin("fedavg", {**STAGED, "clients": 8, "data.partition.alpha": 0.02})
    for _ in range(4):
        run.advance(1)
        sizes = run.simulation.data.at(run.state.round).sizes
        assert sorted(run.engine.cohort) == np.flatnonzero(sizes).tolist()
    assert (sizes == 0).any()


def test_rounds_are_scored_on_the_classes_that_have_arrived():
    run = begin("fedavg", STAGED)
    stages, dataset = run.simulation.data.stages, run.simulation.data.dataset
    seen = stages.seen(1)
    run.advance(2)  # the end of a stage is measured, whatever eval_every is
    per_class = np.array(run.state.metrics[-1]["per_class"], float)
    np.testing.assert_array_equal(np.isfinite(per_class), seen)
    sizes = np.bincount(dataset.y_test, minlength=10)
    expected = (per_class[seen] * sizes[seen]).sum() / sizes[seen].sum()
    assert run.state.metrics[-1]["metrics"]["global/accuracy"] == pytest.approx(expected)
    run.advance(2)
    last = run.state.metrics[-1]
    now, then = np.array(last["per_class"], float), per_class[seen]
    assert np.isfinite(now).all()
    assert last["metrics"]["stages/forgetting"] == pytest.approx((then - now[seen]).mean())
    assert "per_class" not in run.state.metrics[0]


def test_clients_are_scored_on_the_classes_that_have_arrived():
    run = begin("fedavg", {**STAGED, "eval_clients": "all"})
    run.advance(2)
    seen, data = run.simulation.data.seen(1), run.simulation.data
    shares = [seen[data.dataset.y_test[rows]].sum() for rows in data.client_test]
    run.engine.cohort = range(4)
    asked = run.simulation.server.configure_evaluate(2, to_record(run.tensors), ConfigRecord(), run.engine)
    replies = run.engine.stream(asked)
    assert [reply.content["metrics"]["num-examples"] for reply in replies] == shares


@pytest.mark.parametrize(
    ("strategy", "overrides", "told"),
    [
        ("fedavg", {"privacy.client.noise_multiplier": 1.0, "model.norm": "group"}, "privacy.client: .* data.stages"),
        ("fedavg", {"privacy.example.noise_multiplier": 1.0, "model.norm": "group"}, "privacy.example: .* data.stages"),
        ("aggregate", {}, "data.stages: aggregate prepares its data once"),
    ],
)
def test_what_knows_no_stages_is_refused(strategy, overrides, told):
    with pytest.raises(FedsimError, match=told):
        begin(strategy, {**STAGED, **overrides})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = {
        "clients": 4, "rounds": 4, "checkpoint_every": 2, "name": "staged", "out": tmp_path_factory.mktemp("runs"),
        "data": {"stages": {"count": 2, "order": "natural"}, "partition": "iid", "max_per_class": 30},
        "model": {"name": "mlp", "hidden": [32]}, "training": {"vectorize": "never", "epochs": 1},
    }  # fmt: skip
    with as_for_users():
        return run(config).folder


def test_the_folder_tells_the_schedule_and_shows_the_matrix(folder):
    opened = RunFolder.open(folder)
    told = json.loads((folder / "summary.json").read_text())["stages"]
    assert told == [{"classes": [0, 1, 2, 3, 4], "rounds": [1, 2]}, {"classes": [5, 6, 7, 8, 9], "rounds": [3, 4]}]
    matrix = opened.stage_matrix
    assert np.isnan(matrix[0, 1])
    final = opened.final_metrics
    assert final["global/accuracy"] == pytest.approx(final["stages/accuracy_old"] / 2 + matrix[1, 1] / 2, abs=0.01)
    assert matrix[0, 0] - matrix[1, 0] == pytest.approx(final["stages/forgetting_ends"])
    assert (folder / "plots" / "stages.png").stat().st_size > 1000
    assert "Accuracy on the classes of each stage" in (folder / "report.html").read_text()


def test_the_oracle_without_a_past_class_has_the_same_schedule(folder, monkeypatch):
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
    source = open_source(folder)
    left = source.data.without(np.flatnonzero(source.data.dataset.y_train == 3))
    oracle = retrained(source, left, source.config.seed, "oracles").folder
    summary = json.loads((oracle / "summary.json").read_text())
    assert summary["stages"] == json.loads((folder / "summary.json").read_text())["stages"]
    assert summary["class_counts"][3] == 0
    assert RunFolder.open(oracle).metrics[1].per_class[3] == 0.0
