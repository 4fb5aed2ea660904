"""Channels that are masked where they are read, and channels that are gone, are the same function."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.channels import _inputs, channel_groups, cost, layer_positions, narrowed
from fedsim.models.config import MODELS, ModelConfig
from fedsim.models.vit import vit

SHAPE = (3, 16, 16)
_SMALL = {"resnet18": 8, "resnet34": 8, "resnet32": 4}

NETWORKS = [
    (name, norm) for name, entry in MODELS.items() for norm in entry.norms or (None,)
    if norm != "group" and name not in ("linear", "logistic", "lstm")
]  # fmt: skip


def shape_of(name: str) -> tuple[int, ...]:
    return (6,) if MODELS[name].reads == "text" else SHAPE


def samples_for(name: str, number: int, draws: torch.Generator) -> torch.Tensor:
    if MODELS[name].reads == "text":
        return torch.randint(10, (number, *shape_of(name)), generator=draws)
    return torch.randn(number, *SHAPE, dtype=torch.float64, generator=draws)


def trained_like(name: str, norm: str | None) -> Classifier:
    """Return a model whose biases, shifts and running statistics are not those of a new one."""
    config = ModelConfig(name=name, norm=norm, width=_SMALL.get(name))
    model = build_model(config, shape_of(name), 10, 0).double().eval()
    draws = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.data = torch.rand(value.shape, generator=draws, dtype=value.dtype) + 0.1
    return model


def masked(model, groups, keep) -> Classifier:
    """Return a copy of the same size in which no layer reads a channel that is not kept.

    A zero filter in front of a norm would not do, since the norm's shift and running mean would remain.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for group in groups.values():
            dropped = torch.ones(group.channels, dtype=torch.bool)
            dropped[keep.get(group.name, torch.arange(group.channels))] = False
            for consumer in group.consumers:
                weight = model.get_parameter(f"{consumer.name}.weight")
                weight[:, _inputs(consumer, dropped.nonzero()[:, 0])] = 0
    return model


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_masked_is_narrowed(name: str, norm: str | None) -> None:
    model = trained_like(name, norm)
    groups = channel_groups(model, shape_of(name))
    assert groups
    draws = torch.Generator().manual_seed(2)
    keep = {
        group.name: torch.randperm(group.channels, generator=draws)[: 1 + group.channels // 2].sort().values
        for group in groups.values()
    }
    x = samples_for(name, 4, draws)
    small, zeroed = narrowed(model, groups, keep), masked(model, groups, keep)
    positions = layer_positions(model, shape_of(name))
    counts = {name: len(channels) for name, channels in keep.items()}
    assert cost(model, positions, groups, counts) == cost(small, positions)
    assert (small(x) - zeroed(x)).abs().max() < 1e-12 * zeroed(x).abs().max().clamp_min(1)
    assert (zeroed(x) - model(x)).abs().max() > 1e-6
    again = channel_groups(small, shape_of(name))
    assert {group: again[group].channels for group in again} == {group: len(keep[group]) for group in groups}


@pytest.mark.parametrize(("name", "norm"), NETWORKS)
def test_all_kept_is_the_same_bits(name: str, norm: str | None) -> None:
    model = trained_like(name, norm)
    groups = channel_groups(model, shape_of(name))
    same = narrowed(model, groups, {group.name: torch.arange(group.channels) for group in groups.values()})
    assert list(same.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in same.state_dict().items())


def test_a_residual_stream_is_one_group_that_the_next_stage_its_shortcut_and_the_head_read() -> None:
    model = build_model(ModelConfig(name="resnet8", norm="batch"), SHAPE, 10, 0)
    groups = channel_groups(model, SHAPE)
    stream = groups["0"]
    assert stream.producers == ("features.0", "features.3.residual.3")
    assert [consumer.name for consumer in stream.consumers] == [
        "features.3.residual.0", "features.4.residual.0", "features.4.shortcut.0",
    ]  # fmt: skip
    assert [consumer.name for consumer in groups["5/residual/3"].consumers] == ["classifier"]


def test_cost_by_hand() -> None:
    """A 3x3 convolution of stride 2 from 1 to 8 channels on 8x8, one to 32 on 4x4, 128 -> 64, 64 -> 10."""
    model = build_model(ModelConfig(name="cnn", norm="none"), (1, 8, 8), 10, 0)
    spent = cost(model, layer_positions(model, (1, 8, 8)))
    assert spent.flops == 2 * (16 * 8 * 9 + 4 * 32 * 8 * 9 + 128 * 64 + 64 * 10)
    assert spent.parameters == (8 * 9 + 8) + (32 * 8 * 9 + 32) + (128 * 64 + 64) + (64 * 10 + 10)


def test_group_norm_is_refused() -> None:
    model = build_model(ModelConfig(name="cnn", norm="group"), SHAPE, 10, 0)
    with pytest.raises(FedsimError, match=r"^model.norm: group norm .* use batch$"):
        channel_groups(model, SHAPE)


def test_a_model_whose_code_asks_for_values_is_refused() -> None:
    class Asking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(FedsimError, match=r"^model.name: its channels cannot be followed \(.*; use another$"):
        channel_groups(Classifier(nn.Sequential(nn.Linear(4, 4), Asking()), 4, 2), (4,))


def test_attention_and_the_residual_stream_of_a_transformer_are_left_alone() -> None:
    model = Classifier(*vit(SHAPE), 10)
    names = list(channel_groups(model, SHAPE))
    assert len(names) == 4
    assert all("/mlp/" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:resnet50", "torchvision:vit_b_16"])
def test_masked_is_narrowed_in_networks_of_torchvision(name: str) -> None:
    shape = (3, 32, 32)
    model = build_model(ModelConfig(name=name), shape, 10, 0).eval()
    groups = channel_groups(model, shape)
    keep = {group: torch.arange(0, found.channels, 2) for group, found in groups.items()}
    x = torch.randn(2, *shape)
    with torch.no_grad():
        small, zeroed = narrowed(model, groups, keep)(x), masked(model, groups, keep)(x)
    assert (small - zeroed).abs().max() < 1e-6 * zeroed.abs().max()


def test_torchvisions_bottlenecks() -> None:
    """ResNet-50's blocks come from torchvision, as a model of one's own would."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network = resnet50(width_per_group=4)
    network.fc = nn.Identity()
    model = Classifier(network, 2048, 10).eval()
    groups = channel_groups(model, (3, 32, 32))
    assert len(groups) == 1 + 16 * 2 + 4  # the stem, two inside of each of 16 blocks, the stream of each stage
    keep = {name: torch.arange(max(1, group.channels // 2)) for name, group in groups.items()}
    x = torch.randn(2, 3, 32, 32)
    small, zeroed = narrowed(model, groups, keep), masked(model, groups, keep)
    assert torch.allclose(small(x), zeroed(x), atol=1e-5)
    assert sum(v.numel() for v in small.parameters()) < sum(v.numel() for v in model.parameters()) / 2


def test_a_narrowed_model_is_rebuilt_from_its_widths() -> None:
    config = ModelConfig(name="resnet8", norm="batch")
    model = build_model(config, SHAPE, 10, 0)
    groups = channel_groups(model, SHAPE)
    small = narrowed(model, groups, {"0": torch.arange(5), "4/residual/0": torch.tensor([3, 7])})
    rebuilt = build_model(config.model_copy(update={"widths": {"0": 5, "4/residual/0": 2}}), SHAPE, 10, 0)
    rebuilt.load_state_dict(copy.deepcopy(small.state_dict()))
    x = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt.eval()(x), small.eval()(x))


@pytest.mark.parametrize(("widths", "says"), [({"nothing": 3}, "no channel group 'nothing'"), ({"0": 17}, "1 to 16")])
def test_impossible_widths(widths: dict[str, int], says: str) -> None:
    config = ModelConfig(name="resnet8", norm="batch", widths=widths)
    with pytest.raises(FedsimError, match=rf"^model.widths: .*{says}"):
        build_model(config, SHAPE, 10, 0)


def test_the_steps_of_an_lstm_are_not_followed() -> None:
    model = build_model(ModelConfig(name="lstm", width=4), (6,), 10, 0)
    with pytest.raises(FedsimError, match=r"^model.name: its channels cannot be followed \(.*\); use another\Z"):
        channel_groups(model, (6,))
