"""Gradients of single samples against autograd, one sample at a time; projections against what they promise."""

import pytest
import torch
from torch import Tensor

from fedsim.models.sample_gradients import in_parts, projected, sample_gradients


def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return (torch.tanh(params["w"] @ x).sum() + params["b"] - y).square().squeeze()


@pytest.fixture
def given() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(3, 4, generator=draws).double(), "b": torch.randn(1, generator=draws).double()}
    return params, torch.randn(7, 4, generator=draws).double(), torch.randn(7, generator=draws).double()


def test_each_is_the_gradient_of_its_sample_alone(given: tuple[dict[str, Tensor], Tensor, Tensor]) -> None:
    params, x, y = given
    together = sample_gradients(loss)(params, x, y)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    for i in range(len(x)):
        alone = torch.autograd.grad(loss(leaves, x[i], y[i]), list(leaves.values()))
        for name, gradient in zip(leaves, alone, strict=True):
            torch.testing.assert_close(together[name][i], gradient, rtol=1e-12, atol=1e-12)
    parts = list(in_parts(sample_gradients(loss), params, x, y, 3))
    assert [len(part["w"]) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([part["w"] for part in parts]), together["w"], rtol=1e-12, atol=1e-12)


def test_shared_arguments_and_metrics(given: tuple[dict[str, Tensor], Tensor, Tensor]) -> None:
    params, x, y = given

    def scaled(params: dict[str, Tensor], scale: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return scale * loss(params, x, y), {"y": y}

    twice, told = sample_gradients(scaled, shared=1, has_aux=True)(params, torch.tensor(2.0), x, y)
    torch.testing.assert_close(twice["w"], 2 * sample_gradients(loss)(params, x, y)["w"])
    assert torch.equal(told["y"], y)


def test_projections_keep_inner_products_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(1)
    gradients = {"a": torch.randn(6, 5, 8, generator=draws).double(), "b": torch.randn(6, 30, generator=draws).double()}
    flat = torch.cat([value.flatten(1) for value in gradients.values()], 1)
    exact = flat @ flat.T
    estimates = torch.stack([(p := projected(gradients, 64, seed)) @ p.T for seed in range(200)])
    # The variance of one estimate is at most (|a|^2 |b|^2 + <a, b>^2) / 64; of the mean of 200 of them, a 200th.
    error = ((exact.diagonal()[:, None] * exact.diagonal() + exact.square()) / 64 / 200).sqrt()
    assert ((estimates.mean(0) - exact).abs() < 5 * error).all()


def test_a_projection_is_linear_and_of_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(2)
    a, b = ({"w": torch.randn(3, 40, generator=draws)} for _ in range(2))
    both = {"w": a["w"] + b["w"]}
    torch.testing.assert_close(projected(both, 16, 5), projected(a, 16, 5) + projected(b, 16, 5))
    assert not torch.allclose(projected(a, 16, 5), projected(a, 16, 6))
    torch.testing.assert_close(projected({"w": a["w"][:1]}, 16, 5), projected(a, 16, 5)[:1])
    monkeypatch.setattr("fedsim.models.sample_gradients._BLOCK_FLOATS", 16 * 7)  # six blocks, five of seven rows
    in_blocks = projected(a, 16, 5)
    assert in_blocks.shape == (3, 16)
    norms = in_blocks.square().sum(1) / a["w"].square().sum(1)
    assert ((norms > 0.2) & (norms < 3)).all()
