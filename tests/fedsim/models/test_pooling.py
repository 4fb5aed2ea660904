"""Quick max pooling against torch's own, bit for bit."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from fedsim.models import pooling
from fedsim.models.lanes import for_lanes

POOLS = {
    "of 2": nn.MaxPool2d(2),
    "of 3 that overlap": nn.MaxPool2d(3, stride=2, padding=1),
    "uneven": nn.MaxPool2d((2, 3), stride=(1, 2), ceil_mode=True),
    "spread": nn.MaxPool2d(2, dilation=2),
}


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers of which many are equal, as those after a ReLU are; some are NaN or infinite."""
    x = (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).relu().round()
    x.view(-1)[5], x.view(-1)[77] = float("nan"), float("inf")
    return x.to(dtype)


def outcomes(pool: nn.Module, x: Tensor) -> list[Tensor]:
    """Return output, gradient, and gradient of the gradient's square."""
    x = x.detach().requires_grad_()
    out = pool(x)
    seeds = torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view(out.shape).requires_grad_()
    (grad,) = torch.autograd.grad(out, x, seeds, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), seeds)
    return [out, grad, second]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    calls: list[bool] = []
    inner = pooling._max_pool
    monkeypatch.setattr(pooling, "_max_pool", lambda *given: calls.append(True) or inner(*given))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_the_bits_are_torch_s(name: str, dtype: torch.dtype, used: list[bool]) -> None:
    x = images(3, 5, 9, 8, dtype=dtype)
    quick = for_lanes(copy.deepcopy(POOLS[name]))
    for mine, theirs in zip(outcomes(quick, x), outcomes(POOLS[name], x), strict=True):
        assert mine.equal(theirs) or mine.allclose(theirs, rtol=0, atol=0, equal_nan=True)
        assert mine.is_contiguous()
    assert used


@pytest.mark.parametrize("name", POOLS)
def test_many_clients_at_once(name: str, used: list[bool]) -> None:
    x = images(4, 3, 5, 9, 8)
    quick = for_lanes(copy.deepcopy(POOLS[name]))
    found = outcomes(vmap(quick), x)
    assert len(used) == 1
    for mine, theirs in zip(found, outcomes(vmap(POOLS[name]), x), strict=True):
        assert mine.allclose(theirs, rtol=0, atol=0, equal_nan=True)


LEFT = [images(5, 8, 8), images(2, 5, 8, 8).contiguous(memory_format=torch.channels_last), torch.empty(0, 5, 8, 8)]


@pytest.mark.parametrize("x", LEFT)
def test_other_layouts_are_left_to_torch(x: Tensor, used: list[bool]) -> None:
    assert for_lanes(nn.MaxPool2d(2))(x).allclose(nn.MaxPool2d(2)(x), rtol=0, atol=0, equal_nan=True)
    assert not used
