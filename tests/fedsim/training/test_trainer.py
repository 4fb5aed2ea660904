"""The trainer against literal torch.optim loops, and its two ways of running a chunk against each other."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.config.resolve import resolve
from fedsim.federated.client import Client
from fedsim.federated.types import Phase, State
from fedsim.models.build import build_model, has_batch_coupling
from fedsim.models.config import ModelConfig
from fedsim.training.batches import plan_batches
from fedsim.training.data import ClientJob, TrainingData
from fedsim.training.trainer import Trainer, _groups

SHAPE, CLASSES = (1, 8, 8), 4
SIZES = [23, 7, 1, 12, 30, 12]  # ragged: full batches, short last ones, a single sample


def _data(seed=0):
    g = torch.Generator().manual_seed(seed)
    n = sum(SIZES)
    x = torch.randn(n, *SHAPE, generator=g, dtype=torch.float64)
    y = torch.randint(0, CLASSES, (n,), generator=g)
    return TrainingData(x, y, torch.zeros(1), torch.ones(1), "none", 0, torch.float64)


def _jobs(clients=(0, 1, 2, 3, 4, 5)):
    starts = np.cumsum([0, *SIZES])
    return [ClientJob(c, np.arange(starts[c], starts[c + 1]), State({}, {})) for c in clients]


def _setup(norm="none", client_type=Client, **training):
    config = resolve({"model": {"name": "cnn", "norm": norm}, "training": {"batch_size": 5, "lr": 0.1, **training}})
    model = build_model(ModelConfig(name="cnn", norm=norm), SHAPE, CLASSES, 0).double()
    trainer = Trainer(client_type(config, model), _data(), config.training, 0, has_batch_coupling(model))
    params = {name: value.detach() for name, value in model.named_parameters()}
    return model, trainer, State(params, dict(model.named_buffers()))


def _by_client(trained):
    return {
        lane: {name: value[row] for part in trained.state for name, value in part.items()}
        for row, lane in enumerate(trained.lanes)
    }


def _together(trainer, start, jobs):
    return _by_client(trainer.train(start, {}, jobs, 1))


def _one_by_one(trainer, start, jobs):
    return {lane: _by_client(trainer.train(start, {}, [job], 1))[0] for lane, job in enumerate(jobs)}


OPTIONS = [
    {},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.01},
    {"clip_norm": 0.1, "epochs": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_client_is_a_literal_torch_loop(options):
    model, trainer, start = _setup(**options)
    job = _jobs()[0]
    got = _one_by_one(trainer, start, [job])[0]

    config = trainer.config
    if config.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    plan = plan_batches([job.rows], [0], (0, 1, 0), epochs=config.epochs, batch_size=5, drop_single=False)
    for index, count in zip(plan.index[:, 0], plan.counts[:, 0], strict=True):
        rows = torch.from_numpy(index[:count])
        optimizer.zero_grad()
        F.cross_entropy(model(trainer.data.x[rows]), trainer.data.y[rows]).backward()
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
    for name, value in model.named_parameters():
        # torch clips to max_norm / (norm + 1e-6), which is felt in the eighth digit
        tolerance = 1e-6 if config.clip_norm else 1e-12
        assert torch.allclose(got[name], value, rtol=0, atol=tolerance), name


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_all_at_once_is_one_after_another(norm, options):
    _, trainer, start = _setup(norm, **options)
    together, alone = _together(trainer, start, _jobs()), _one_by_one(trainer, start, _jobs())
    for lane, name in itertools.product(range(len(SIZES)), together[0]):
        assert torch.allclose(together[lane][name], alone[lane][name], rtol=0, atol=1e-9), (lane, name)
    stuck = [name for name in start.params if torch.equal(together[0][name], start.params[name])]
    assert all(name.endswith("bias") for name in stuck), "only a bias before BatchNorm has no gradient"


def test_small_models_are_trained_at_once_without_torchs_compiler(tmp_path):
    script = """
import sys
from fedsim.runs.simulation import Simulation
from fedsim.config.resolve import resolve
s = Simulation(resolve({"clients": 4, "training": {"vectorize": "always"}}, {"engine.name": "inprocess"}))
state, engine = s.begin(), s.engine()
s.step(state, engine)
assert s.worker.trainer.recorder._calls
assert "torch._dynamo" not in sys.modules, "its import takes longer than many a run"
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_single_sample_takes_no_step_under_batch_norm_but_does_without():
    for norm, stays in [("batch", True), ("group", False)]:
        _, trainer, start = _setup(norm)
        one = _together(trainer, start, _jobs([0, 2]))[1]
        assert torch.equal(one["classifier.weight"], start.params["classifier.weight"]) is stays


def test_metrics_are_means_over_the_samples_each_client_saw():
    _, trainer, start = _setup(lr=1e-12)  # the model stands still: every batch is measured at the start
    data = trainer.data
    jobs = _jobs()
    trained = trainer.train(start, {}, jobs, 1)
    for row, lane in enumerate(trained.lanes):
        rows = torch.from_numpy(jobs[lane].rows)
        logits = trainer.client.model.logits(start.params, start.buffers, data.x[rows], train=True)
        assert float(trained.metrics["loss"][row]) == pytest.approx(float(F.cross_entropy(logits, data.y[rows])), 1e-5)


def test_what_is_given_is_not_written_to():
    _, trainer, start = _setup("batch", momentum=0.5)
    before = State(*({name: value.clone() for name, value in part.items()} for part in start))
    _together(trainer, start, _jobs())
    _one_by_one(trainer, start, _jobs())
    for part, old in zip(start, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in part.items())


def test_dropout_is_seeded_by_address_and_leaves_the_generator_alone():
    config = resolve({"model": {"name": "mlp", "dropout": 0.5}, "training": {"batch_size": 5}})
    model = build_model(config.model, SHAPE, CLASSES, 0).double()
    trainer = Trainer(Client(config, model), _data(), config.training, 0, False)
    start = State({name: value.detach() for name, value in model.named_parameters()}, {})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = _one_by_one(trainer, start, _jobs([0]))[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = _one_by_one(trainer, start, _jobs([0]))[0]
    other_round = _by_client(trainer.train(start, {}, _jobs([0]), 2))[0]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other_round["classifier.weight"])


class _HeadThenRest(Client):
    def phases(self):
        return [
            Phase(self.loss, lambda name: name.startswith("classifier."), epochs=3),
            Phase(self.loss, lambda name: not name.startswith("classifier.")),
        ]


def test_phases_move_only_what_they_train_each_for_its_epochs():
    _, both, start = _setup(client_type=_HeadThenRest)
    jobs = _jobs([0, 1])
    after = _together(both, start, jobs)

    class HeadOnly(Client):
        def phases(self):
            return _HeadThenRest.phases(self)[:1]

    _, head, _ = _setup(client_type=HeadOnly)
    first = _together(head, start, jobs)
    for lane in (0, 1):
        assert torch.equal(after[lane]["classifier.weight"], first[lane]["classifier.weight"])
        assert torch.equal(first[lane]["features.0.weight"], start.params["features.0.weight"])
        assert not torch.equal(after[lane]["features.0.weight"], start.params["features.0.weight"])


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("counts", [[5, 5, 5], [5, 5, 2], [5, 2, 5, 0], [3, 0, 0], [0, 4]])
def test_groups_cover_every_active_client_once(counts, exact):
    counts = np.array(counts)
    covered = []
    for rows, width in _groups(counts, exact=exact):
        members = np.arange(len(counts))[rows]
        covered += members.tolist()
        assert (counts[members] <= width).all()
        assert (counts[members] > 0).all()
        assert not exact or (counts[members] == width).all()
    assert sorted(covered) == np.flatnonzero(counts).tolist()


def test_mixed_precision_steps_near_full_precision_and_keeps_float32_parameters():
    results = {}
    for precision in ("float32", "bf16-mixed"):
        config = resolve({"training": {"batch_size": 5, "lr": 0.1, "precision": precision}})
        model = build_model(config.model, SHAPE, CLASSES, 0)
        data = TrainingData(_data().x, _data().y, torch.zeros(1), torch.ones(1), "none", 0)
        trainer = Trainer(Client(config, model), data, config.training, 0, False)
        start = State({name: value.detach() for name, value in model.named_parameters()}, {})
        results[precision] = _together(trainer, start, _jobs())[0]
    full, mixed = results["float32"], results["bf16-mixed"]
    assert all(value.dtype == torch.float32 for value in mixed.values())
    assert not torch.equal(full["classifier.weight"], mixed["classifier.weight"])
    assert torch.allclose(full["classifier.weight"], mixed["classifier.weight"], rtol=0, atol=0.02)


def test_channels_last_changes_the_layout_only():
    _, trainer, start = _setup()
    _, other, _ = _setup(channels_last=True)
    ours, theirs = _one_by_one(trainer, start, _jobs()), _one_by_one(other, start, _jobs())
    for lane, name in itertools.product(range(len(SIZES)), ours[0]):
        assert torch.allclose(ours[lane][name], theirs[lane][name], rtol=0, atol=1e-9)
