import pytest
import torch
import torch.nn.functional as F

from fedsim.federated.types import Batch, Extras
from fedsim.training.batches import plan_batches
from tests.strategies.small_runs import begin

SMALL = {
    "data.max_per_class": 40, "data.imbalance_factor": 1.0, "data.labelled_fraction": 0.3, "model.norm": "none",
    "training.steps": 4, "training.precision": "float64", "training.momentum": 0.0,
}  # fmt: skip


def test_a_round_is_the_algorithm_written_out():
    run = begin("fixmatch", {
        **SMALL, "clients": 1, "strategy.threshold": 0.15, "strategy.unlabelled_weight": 0.7,
        "strategy.strong.num_ops": 0, "training.batch_size": 40,
    })  # fmt: skip
    simulation, config = run.simulation, run.simulation.config
    model, data = simulation.new_model(config), simulation.worker.train_set
    streams = [(simulation.data.partition[0], "batches"), (simulation.data.unlabelled[0], "unlabelled batches")]
    plans = [
        plan_batches([rows], [0], (0, 1, 0), epochs=1, batch_size=40, drop_single=False, steps=4, purpose=purpose)
        for rows, purpose in streams
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    passed = 0
    for labelled, unlabelled in zip(*(torch.from_numpy(plan.index[:, 0]) for plan in plans), strict=True):
        x, u = data.batch(labelled, None)[0], data.batch(unlabelled, None)[0]
        top, label = model(u).detach().softmax(1).max(1)
        passed += int((top > 0.15).sum())
        pseudo = sum(F.cross_entropy(model(u[i : i + 1]), label[i : i + 1]) for i in range(40) if top[i] > 0.15) / 40
        optimizer.zero_grad()
        (F.cross_entropy(model(x), data.y[labelled]) + 0.7 * pseudo).backward()
        optimizer.step()
    assert 0 < passed < 160
    run.advance(1)
    for name, value in model.state_dict().items():
        assert torch.allclose(run.tensors[name], value, rtol=0, atol=1e-12), name


def test_only_the_strong_view_of_unlabelled_samples_is_trained_on_and_not_through_the_pseudo_label():
    run = begin("fixmatch", {**SMALL, "strategy.threshold": 0.0})
    client, params = run.simulation.worker.client, {n: v.requires_grad_() for n, v in run.tensors.items()}
    x, y = run.simulation.worker.train_set.batch(torch.arange(6), None)
    y = torch.where(torch.arange(6) < 3, y.clamp_min(0), -1)
    strong = torch.zeros_like(x, requires_grad=True)
    loss, metrics = client.loss(params, {}, Extras({}, {}), Batch(x.requires_grad_(), y, None, strong))
    grad_x, grad_strong = torch.autograd.grad(loss, (x, strong))
    assert (grad_x[:3] != 0).any()
    assert (grad_x[3:] == 0).all()
    assert (grad_strong[:3] == 0).all()
    assert (grad_strong[3:] != 0).any()
    parts = metrics["loss_labelled"] + metrics["loss_pseudo"]
    assert loss.item() == pytest.approx(parts.item())
