"""What the methods for classes that arrive in stages share, and what they promise."""

import math

import numpy as np
import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.federated.staged import NEW, OLD
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.simulation import Simulation
from tests.fedsim.runs.test_staging import poison_earlier_stages
from tests.strategies.small_runs import assert_cohorts_agree, assert_same_bits, begin, configure, finished
from tests.strategies.staged_runs import STAGED, gradients, in_second_stage, shared_batch

METHODS = ["target", "fedlwf", "fedewc", "class_means"]
every_method = pytest.mark.parametrize("method", METHODS)


# Losses ---------------------------------------------------------------------------------------------------------------


def test_weight_zero_moves_parameters_as_fine_tuning_does_but_not_the_batch_norm():
    client, state, extras, batch, run = in_second_stage("target")
    alone, buffers_alone = gradients(client, state, extras, batch)
    zero = type(client)(run.simulation.config.model_copy(
        update={"strategy": run.simulation.config.strategy.model_copy(update={"distillation": 0.0})}
    ), run.simulation.new_model(run.simulation.config))  # fmt: skip
    with_images, buffers = gradients(zero, state, extras, batch._replace(shared=shared_batch(extras, run)))
    for name, value in alone.items():
        assert torch.equal(with_images[name], value)
    assert any(not torch.equal(buffers[name], value) for name, value in buffers_alone.items())
    assert zero.phases()[0].shared is None  # so that a run takes no such forward pass


# Stages ---------------------------------------------------------------------------------------------------------------


@every_method
def test_old_logits_are_bit_equal_when_a_stage_begins_and_new_rows_are_in_bounds(method):
    run = begin(method, STAGED)
    run.advance(2)
    server = run.simulation.server
    before = run.tensors
    after = server.prepare_round(3, before, lambda what, done, total: None)
    old, new = (server.constants()[name] for name in (OLD, NEW))
    x = torch.randn(5, *run.simulation.data.dataset.input_shape)
    heads = [next(iter(server.heads(server.split(tensors), x).values())) for tensors in (before, after)]
    assert torch.equal(heads[0][:, old], heads[1][:, old])
    rows = after["classifier.weight"]
    assert torch.equal(rows[old], before["classifier.weight"][old])
    assert rows[new].abs().max() <= math.sqrt(3 / rows.shape[1])
    assert after["classifier.bias"][new].eq(0).all()
    assert not torch.equal(rows[new], before["classifier.weight"][new])


@every_method
def test_no_sample_of_an_earlier_stage_is_read(method):
    clean = finished(method, STAGED)
    poisoned = begin(method, STAGED)
    poisoned.advance(2)
    poison_earlier_stages(poisoned, 1)
    poisoned.advance(2)
    assert_same_bits(poisoned.tensors, clean.tensors)
    assert_same_bits(poisoned.state.server[0], clean.state.server[0])


@every_method
def test_resumed_in_any_round_it_comes_to_the_same_bits(method, tmp_path):
    whole = finished(method, STAGED)
    for done in (1, 2, 3):
        half = begin(method, STAGED)
        half.advance(done)
        (tmp_path / str(done)).mkdir()
        half.simulation.checkpoint(half.state, half.engine).save(tmp_path / str(done))
        resumed = begin(method, STAGED, load_latest(tmp_path / str(done)))
        resumed.advance(4 - done)
        assert_same_bits(resumed.tensors, whole.tensors)
        assert_same_bits(resumed.state.server[0], whole.state.server[0])


def test_a_stages_images_and_model_are_written_once(tmp_path):
    run = begin("target", STAGED)
    files = []
    for _ in range(4):
        run.advance(1)
        run.simulation.checkpoint(run.state, run.engine).save(tmp_path)
        newest = max((tmp_path / "checkpoints").glob("round-*"))
        files.append([path.stat().st_ino for path in newest.glob("server-*")])
    assert files[:2] == [[], []]
    assert files[2] == files[3] != []
    loaded = load_latest(tmp_path)
    assert_same_bits(loaded.server[0], run.state.server[0])


@pytest.mark.parametrize("method", ["target", "fedlwf", "fedewc"])
def test_clients_trained_at_once_agree(method):
    assert_cohorts_agree(method, {**STAGED, "rounds": 3, "data.stages.rounds": 1})


def test_server_work_is_told_and_is_not_the_clients_time():
    told = []

    class Listening:
        def __getattr__(self, name):
            return lambda *given: told.append(given) if name == "working" else None

    simulation = Simulation(configure("target", STAGED), Listening())
    state, engine = simulation.begin(), simulation.engine()
    metrics = [simulation.step(state, engine) for _ in range(3)]
    assert told == [("images for stage 2", 1, 2), ("images for stage 2", 2, 2)]
    spent = 4 / metrics[2]["train/clients_per_s"]
    assert metrics[2]["server/seconds"] > metrics[1]["server/seconds"]
    line = state.metrics[2]["time_s"] - state.metrics[1]["time_s"]
    assert metrics[2]["server/seconds"] + spent <= line + 1e-3
    assert 0 <= metrics[2]["train/critic_accuracy"] <= 1
    assert "train/critic_accuracy" not in metrics[1]


# FedEWC and class means -----------------------------------------------------------------------------------------------


def test_each_client_answers_once_a_stage_whatever_the_cohort():
    run = finished("class_means", {**STAGED, "rounds": 12, "cohort": 2})
    held = np.bincount(run.simulation.data.dataset.y_train[run.simulation.data.partition.indices], minlength=10)
    stages = run.simulation.data.stages
    answered = run.simulation.server.answered
    assert {client for stage, client in answered if stage == 1} == set(range(4))
    np.testing.assert_array_equal(run.simulation.server.counts.numpy()[stages.blocks[1]], held[stages.blocks[1]])


_MLP = {"name": "mlp", "norm": "batch"}


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "overrides", "told"),
    [
        ("fedlwf", {"data.stages.keep": 5}, "data.stages.keep: fedlwf learns from a stage's own classes only"),
        ("target", {"model.norm": "none"}, "strategy.synthesis.weight_statistics: cnn has no batch norm"),
        ("target", {"data.name": "breast_cancer", "model": _MLP}, "makes images"),
        ("class_means", {"data.stages.count": 1}, "data.stages.count: class_means needs 2 stages or more"),
        ("fedlwf", {"history.keep": "norms"}, "history.keep: the server of fedlwf works between rounds"),
        ("target", {"strategy.synthesis.images": 10**6}, "strategy.synthesis: 2 rounds of 8 make 16 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(method, overrides, told):
    with pytest.raises(FedsimError, match=told):
        begin(method, {**STAGED, "data.max_per_class": None, **overrides})
