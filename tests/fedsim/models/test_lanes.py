"""Layers of many clients at once against torch's own, client after client."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsim.models import lanes
from fedsim.models.lanes import for_lanes, linear
from fedsim.training import step_cache
from fedsim.training.step_cache import Recorder

LANES, BATCH = 4, 3
CONVOLUTIONS = {
    "first of cnn": (nn.Conv2d(1, 8, 3, stride=2, padding=1), (8, 8)),
    "second of cnn": (nn.Conv2d(8, 32, 3, stride=2, padding=1), (4, 4)),
    "windows that do not meet": (nn.Conv2d(3, 5, 2, stride=3), (8, 10)),
    "one pixel, no bias": (nn.Conv2d(16, 8, 1, bias=False), (5, 5)),
    "uneven": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (9, 6)),
    "wide padding": (nn.Conv2d(2, 3, 4, stride=4, padding=2), (13, 13)),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def outcomes(layer: nn.Module, x: Tensor, tensors: dict[str, Tensor], *, at_once: bool) -> list[Tensor]:
    """Return outputs and gradients; the gradient of the input, too, and those of gradients."""

    def one(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(layer, tensors, (x,))
        return out

    if at_once:
        out = vmap(one)(tensors, x)
    else:
        out = torch.stack([one({n: v[i] for n, v in tensors.items()}, x[i]) for i in range(LANES)])
    grads = torch.autograd.grad(out.sin().sum(), [x, *tensors.values()], create_graph=True)
    second = torch.autograd.grad(torch.stack([grad.square().sum() for grad in grads]).sum(), [x, *tensors.values()])
    return [out, *grads, *second]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, size = CONVOLUTIONS[name]
    x = numbers(LANES, BATCH, layer.in_channels, *size)
    tensors = {n: numbers(LANES, *v.shape, seed=1) for n, v in layer.named_parameters()}
    expected = outcomes(layer, x, tensors, at_once=False)
    mine = for_lanes(nn.Conv2d(**_arguments(layer)))
    used: list[bool] = []
    product = lanes._rows
    monkeypatch.setattr(lanes, "_rows", lambda values, table: used.append(True) or product(values, table))
    for value, other in zip(outcomes(mine, x, tensors, at_once=True), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)
    assert used


def _arguments(layer: nn.Conv2d) -> dict[str, object]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_have_gradients_that_lie_as_their_weights(bias: bool) -> None:
    layer, x = nn.Linear(7, 5, bias=bias), numbers(LANES, BATCH, 7)
    tensors = {n: numbers(LANES, *v.shape, seed=1) for n, v in layer.named_parameters()}
    expected = outcomes(layer, x, tensors, at_once=False)
    found = outcomes(for_lanes(nn.Linear(7, 5, bias=bias)), x, tensors, at_once=True)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9)
    assert found[2].is_contiguous()


def test_samples_that_all_lanes_share() -> None:
    x, weight, bias = numbers(BATCH, 7), numbers(LANES, 5, 7), numbers(LANES, 5)
    found = vmap(linear, in_dims=(None, 0, 0))(x, weight, bias)
    torch.testing.assert_close(found, torch.stack([F.linear(x, *one) for one in zip(weight, bias, strict=True)]))


def test_what_was_not_measured_to_be_faster_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError(given)

    monkeypatch.setattr(lanes, "_rows", refuse)
    for layer in (
        nn.Conv2d(32, 8, 3, stride=2), nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3, stride=2, groups=2),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, padding_mode="reflect"), nn.Conv2d(4, 8, 3, stride=2, dilation=2),
    ):  # fmt: skip
        x = numbers(LANES, BATCH, layer.in_channels, 9, 9)
        tensors = {n: numbers(LANES, *v.shape, seed=1) for n, v in layer.named_parameters()}
        vmap(functools.partial(functional_call, for_lanes(layer)))(tensors, (x,))
    for_lanes(nn.Conv2d(1, 8, 3, stride=2)).double()(numbers(BATCH, 1, 9, 9))


def test_a_lane_does_not_depend_on_how_many_there_are() -> None:
    layer = for_lanes(nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(128, 10)))
    x = torch.randn(9, BATCH, 1, 8, 8)
    tensors = {n: torch.randn(9, *v.shape).requires_grad_() for n, v in layer.named_parameters()}

    def gradients(some: slice) -> list[Tensor]:
        own = {name: value[some] for name, value in tensors.items()}
        out = vmap(lambda tensors, x: functional_call(layer, tensors, (x,)))(own, x[some])
        return [out, *torch.autograd.grad(out.sin().sum(), list(own.values()))]

    whole, parts = gradients(slice(9)), [gradients(slice(0, 5)), gradients(slice(5, 9))]
    assert all(torch.equal(value, torch.cat(pair)) for value, *pair in zip(whole, *parts, strict=True))


def test_a_step_with_tables_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cache, "_PATIENCE", 0)
    layer = for_lanes(nn.Conv2d(1, 8, 3, stride=2, padding=1).double())

    def step(tensors: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[dict[str, Tensor]]:
        leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
        out = vmap(lambda tensors, x: functional_call(layer, tensors, (x,)))(leaves, batch["x"])
        return (dict(zip(leaves, torch.autograd.grad(out.sin().sum(), list(leaves.values())), strict=True)),)

    recorder = Recorder()
    tensors = {n: numbers(LANES, *v.shape, seed=1).detach() for n, v in layer.named_parameters()}
    for seed in range(3):
        batch = {"x": numbers(LANES, BATCH, 1, 8, 8, seed=seed).detach()}
        (found,), (expected,) = recorder("step", step, tensors, batch), step(tensors, batch)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [recording is not None for recording in recorder._recordings.values()] == [True]
