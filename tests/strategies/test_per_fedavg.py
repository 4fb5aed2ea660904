"""Per-FedAvg against its formulas."""

import pytest
import torch

from fedsim.federated.types import Batch, Extras
from strategies.per_fedavg import part_of
from tests.strategies.small_runs import assert_cohorts_agree, begin

EXACT = {"training.precision": "float64", "model.norm": "none", "strategy.alpha": 0.3}


def given(hessian: str, rows: int = 12):
    run = begin("per_fedavg", {**EXACT, "strategy.hessian": hessian})
    worker = run.simulation.worker
    params = {name: value.clone().requires_grad_() for name, value in run.tensors.items()}
    return worker.client, params, Batch(*worker.train_set.batch(torch.arange(rows), None))


def plain(client, params, batch, part, parts):
    x, y = batch.x[part::parts], batch.y[part::parts]
    return torch.nn.functional.cross_entropy(client.model.logits(params, {}, x, train=True), y)


def gradient_of(client, params, batch):
    loss, _ = client.loss(params, {}, Extras(params, {}), batch)
    return loss, dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def test_first_order_is_the_gradient_at_the_adapted_model():
    client, params, batch = given("none")
    loss, got = gradient_of(client, params, batch)
    first = torch.autograd.grad(plain(client, params, batch, 0, 2), list(params.values()))
    adapted = {n: (v - 0.3 * g).detach().requires_grad_() for (n, v), g in zip(params.items(), first, strict=True)}
    value = plain(client, adapted, batch, 1, 2)
    assert loss.item() == pytest.approx(value.item(), rel=1e-12)
    for g, expected in zip(got.values(), torch.autograd.grad(value, list(adapted.values())), strict=True):
        torch.testing.assert_close(g, expected, rtol=1e-10, atol=1e-14)


def test_hessian_free_comes_near_to_the_product_with_the_hessian():
    client, params, batch = given("free")
    _, got = gradient_of(client, params, batch)
    values = list(params.values())
    first = torch.autograd.grad(plain(client, params, batch, 0, 3), values)
    adapted = {n: (v - 0.3 * g).detach().requires_grad_() for (n, v), g in zip(params.items(), first, strict=True)}
    d = torch.autograd.grad(plain(client, adapted, batch, 1, 3), list(adapted.values()))
    third = torch.autograd.grad(plain(client, params, batch, 2, 3), values, create_graph=True)
    product = torch.autograd.grad(third, values, d)
    for g, direct, curved in zip(got.values(), d, product, strict=True):
        torch.testing.assert_close(g, direct - 0.3 * curved, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(g, direct, rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_hold_each_sample_once_and_are_never_empty():
    batch = Batch(torch.zeros(7, 3), torch.zeros(7, dtype=torch.int64), torch.tensor([1.0] * 5 + [0.0] * 2))
    parts = torch.stack([part_of(batch, part, 3).mask for part in range(3)])
    assert parts.sum(0).tolist() == [1, 1, 1, 1, 1, 0, 0]
    one = batch._replace(mask=torch.tensor([1.0] + [0.0] * 6))
    assert part_of(one, 1, 3).mask.tolist() == [1.0] + [0.0] * 6


@pytest.mark.parametrize("hessian", ["none", "free"])
def test_cohorts_agree(hessian):
    assert_cohorts_agree("per_fedavg", {"strategy.hessian": hessian, "model.norm": "none"})
