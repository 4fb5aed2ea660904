"""What the methods for classes that arrive in stages share, and what they promise."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.errors import FedsimError
from fedsim.federated.staged import NEW, OLD, PREVIOUS, distillation, masked, new_rows
from fedsim.federated.types import Batch, Extras
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.simulation import Simulation
from strategies.class_means import nearest_mean
from strategies.fedewc import consolidation
from strategies.target import SAMPLES
from tests.fedsim.runs.test_stages import poison_earlier_stages
from tests.strategies.small_runs import assert_cohorts_agree, assert_same_bits, begin, configure, finished

STAGED = {
    "rounds": 4,
    "data.stages.count": 2,
    "data.partition": "iid",
    "model": {"name": "cnn", "norm": "batch", "width": 4},
}
METHODS = ["target", "fedlwf", "fedewc", "class_means"]
every_method = pytest.mark.parametrize("method", METHODS)


# Formulas -------------------------------------------------------------------------------------------------------------


def test_new_rows_are_kaimings_with_gain_one():
    rows = new_rows(200, 48, seed=1, stage=2)
    bound = math.sqrt(3 / 48)
    assert rows.abs().max() <= bound
    assert rows.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(rows, new_rows(200, 48, 1, 2))
    assert not torch.equal(rows, new_rows(200, 48, 1, 1))


def test_distillation_is_the_cross_entropy_of_softened_logits_over_some_classes():
    rng = torch.Generator().manual_seed(0)
    logits, teacher = (5 * torch.randn(6, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    classes = torch.tensor([True, False, True, True, False])
    got = distillation(logits, teacher, classes, 2.0)
    kept = [0, 2, 3]
    q, p = (F.softmax(x[:, kept] / 2, 1) for x in (teacher, logits))
    torch.testing.assert_close(got, -(q * p.log()).sum(1))


def test_at_the_teacher_distillation_is_its_entropy_with_no_gradient_and_a_quarter_of_the_scaled_kls_elsewhere():
    rng = torch.Generator().manual_seed(0)
    teacher = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    every = torch.ones(3, dtype=torch.bool)
    logits = teacher.clone().requires_grad_()
    value = distillation(logits, teacher, every, 2.0).mean()
    q = F.softmax(teacher / 2, 1)
    assert float(value.detach()) == pytest.approx(float(-(q * q.log()).sum(1).mean()), abs=1e-6)
    assert torch.autograd.grad(value, logits)[0].abs().max() <= 1e-6
    other = torch.randn(4, 3, generator=rng, dtype=torch.float64).requires_grad_()
    ours = torch.autograd.grad(distillation(other, teacher, every, 2.0).mean(), other)[0]
    kl = F.kl_div((other / 2).log_softmax(1), q, reduction="batchmean") * 4
    torch.testing.assert_close(ours, torch.autograd.grad(kl, other)[0] / 4)


def test_the_pull_is_a_weighted_distance():
    w, anchor, fisher = ({"a": torch.tensor(v)} for v in ([1.0, 2.0], [0.0, 5.0], [4.0, 0.5]))
    assert float(consolidation(w, anchor, fisher)) == pytest.approx((4 * 1 + 0.5 * 9) / 2)


def test_the_nearest_mean_is_a_linear_classifier():
    rng = torch.Generator().manual_seed(0)
    sums, counts = torch.randn(4, 3, generator=rng), torch.tensor([2.0, 5.0, 0.0, 1.0])
    weight, bias = nearest_mean(sums, counts)
    f = torch.randn(50, 3, generator=rng)
    means = sums[[0, 1, 3]] / counts[[0, 1, 3], None]
    nearest = torch.tensor([0, 1, 3])[torch.cdist(f, means).argmin(1)]
    assert torch.equal((f @ weight.T + bias).argmax(1), nearest)


# Losses ---------------------------------------------------------------------------------------------------------------


def in_second_stage(method, **strategy):
    """Return (client half, its extras, a batch) of a run in its second stage."""
    run = begin(method, {**STAGED, **{f"strategy.{name}": value for name, value in strategy.items()}})
    run.advance(3)
    simulation = run.simulation
    worker, server = simulation.worker, simulation.server
    rows = simulation.data.at(3)[0][:8]
    x, y = worker.train_set.batch(torch.from_numpy(rows), None)
    state = server.split(run.tensors)
    return worker.client, state, Extras(state.params, server.constants()), Batch(x, y), run


def gradients(client, state, extras, batch):
    params = {name: value.clone().requires_grad_() for name, value in state.params.items()}
    buffers = {name: value.clone() for name, value in state.buffers.items()}
    loss, _ = client.loss(params, buffers, extras, batch)
    return dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True)), buffers


def shared_batch(extras, run, count=8):
    samples = extras.constants[SAMPLES][:count]
    return run.simulation.worker.train_set.__class__.batch(
        run.simulation.worker.train_set.__class__(
            samples, torch.zeros(len(samples)), run.simulation.worker.train_set.mean,
            run.simulation.worker.train_set.std, "none", 0,
        ),
        torch.arange(count), None,
    )[0]  # fmt: skip


def test_rows_of_old_classes_learn_from_the_images_only_and_rows_of_new_ones_from_the_samples_only():
    client, state, extras, batch, run = in_second_stage("target")
    old, new = extras.constants[OLD], extras.constants[NEW]
    assert torch.equal(old, ~new)
    grads, _ = gradients(client, state, extras, batch)  # alpha = 0: no images
    assert grads["classifier.weight"][old].abs().max() == 0
    assert grads["classifier.weight"][new].abs().max() > 0
    both, _ = gradients(client, state, extras, batch._replace(shared=shared_batch(extras, run)))
    torch.testing.assert_close(both["classifier.weight"][new], grads["classifier.weight"][new])
    assert both["classifier.weight"][old].abs().max() > 0


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


def test_no_distillation_is_fine_tuning_bit_for_bit():
    runs = [
        finished("target", {**STAGED, "strategy.distillation": 0}),
        finished("fedlwf", {**STAGED, "strategy.penalty": 0}),
        finished("fedewc", {**STAGED, "strategy.penalty": 0}),
    ]
    for run in runs[1:]:
        assert_same_bits(run.tensors, runs[0].tensors)


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


def test_the_images_depend_on_seed_and_model_alone():
    first, again, other = (finished("target", {**STAGED, "rounds": 3, "seed": s}).state.server[0] for s in (0, 0, 1))
    assert torch.equal(first[SAMPLES], again[SAMPLES])
    assert not torch.equal(first[SAMPLES], other[SAMPLES])
    assert first[SAMPLES].dtype == torch.uint8


def test_the_server_replaces_its_images_and_keeps_a_sheet_of_each_stage():
    run = finished("target", {**STAGED, "rounds": 3, "data.stages": {"count": 3, "rounds": 1}})
    assert len(run.state.metrics) == 3
    pictures = run.simulation.server.pictures()
    assert list(pictures) == ["Synthetic images of stage 2", "Synthetic images of stage 3"]
    assert all(images.dtype == torch.uint8 for images in pictures.values())
    samples = run.state.server[0][SAMPLES]
    assert torch.equal(pictures["Synthetic images of stage 3"], samples[:: max(1, len(samples) // 64)][:64])


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


def test_fisher_information_is_the_mean_square_of_single_gradients():
    run = begin("fedewc", {**STAGED, "training.epochs": 1})
    run.advance(2)
    server, data = run.simulation.server, run.simulation.data
    state = server.split(run.tensors)
    rows = np.sort(data.at(2).indices)
    x, y = run.simulation.worker.train_set.batch(torch.from_numpy(rows), None)
    new = server.constants()[NEW]
    sums = {name: torch.zeros_like(value) for name, value in state.params.items()}
    for one, label in zip(x, y, strict=True):
        params = {name: value.clone().requires_grad_() for name, value in state.params.items()}
        logits = server.model.logits(params, state.buffers, one[None], train=False)[0, new]
        position = int(new[:label].sum())
        gradients = torch.autograd.grad(logits.log_softmax(0)[position], list(params.values()))
        for name, gradient in zip(params, gradients, strict=True):
            sums[name] += gradient**2
    for name, value in sums.items():
        torch.testing.assert_close(server.fisher[name], value / len(rows), rtol=1e-3, atol=1e-7)


def test_class_means_are_those_of_all_samples_and_features_stay():
    run = finished("class_means", STAGED)
    data, server = run.simulation.data, run.simulation.server
    early = begin("class_means", STAGED)
    early.advance(2)
    for name, value in early.tensors.items():
        assert name.startswith("classifier.") or torch.equal(run.tensors[name], value)
    state = server.split(run.tensors)
    for c in range(10):
        rows = data.partition.indices[data.dataset.y_train[data.partition.indices] == c]
        x, _ = run.simulation.worker.train_set.batch(torch.from_numpy(np.sort(rows)), None)
        mean = server.model.features(state.params, state.buffers, x, train=False).mean(0)
        torch.testing.assert_close(run.tensors["classifier.weight"][c], mean, rtol=1e-4, atol=1e-5)


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
        ("fedlwf", {"history.keep": "norms"}, "history.keep: the server of fedlwf works between rounds"),
        ("target", {"strategy.synthesis.images": 10**6}, "strategy.synthesis: 2 rounds of 8 make 16 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(method, overrides, told):
    with pytest.raises(FedsimError, match=told):
        begin(method, {**STAGED, "data.max_per_class": None, **overrides})


def test_masked_logits_are_below_all_others():
    logits = torch.tensor([[-50.0, 3.0, 1.0]])
    assert masked(logits, torch.tensor([True, False, False])).argmax() == 0
    assert PREVIOUS not in (NEW, OLD)
