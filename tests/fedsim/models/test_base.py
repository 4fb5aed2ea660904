"""Normalisation layers."""

import pytest
import torch

from fedsim.models.base import group_norm


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (6, 1), (8, 2), (16, 4), (20, 4), (32, 8), (200, 8)])
def test_group_norm_keeps_several_channels_per_group(channels: int, groups: int) -> None:
    layer = group_norm(channels)
    assert layer.num_groups == groups
    out = layer(torch.randn(5, channels, generator=torch.Generator().manual_seed(0)))
    assert torch.unique(out.abs().round(decimals=3)).numel() > 2
