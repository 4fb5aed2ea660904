"""Checkpoints of torchvision become the start of a run; what is no checkpoint is refused."""

import os
from pathlib import Path

import pytest
import torch
import torchvision

from fedsim.errors import FedsimError
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.models.start import load_start
from fedsim.runs.checkpoint import save_model
from tests.scripts.load import script

NAME = "torchvision:shufflenet_v2_x0_5"
convert = script("to_safetensors")


def test_a_run_begins_with_the_weights_of_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=7).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "net.pth")
    save_model(tmp_path / "net.safetensors", convert.converted(convert.tensors_of(tmp_path / "net.pth"), NAME, 32))
    x = torch.randn(2, 3, 32, 32)
    same, other = (build_model(ModelConfig(name=NAME), (3, 32, 32), classes, 1).eval() for classes in (7, 5))
    for model in (same, other):
        load_start(model, tmp_path / "net.safetensors")
    assert torch.equal(same(x), network(x))
    assert torch.equal(other.features(x), same.features(x))  # its head is its own
    assert other(x).shape == (2, 5)


class Bad:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_what_is_not_the_networks_is_refused_and_nothing_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bad()}, "bad.pth")
    with pytest.raises(FedsimError, match=r"bad\.pth: is no checkpoint of tensors alone"):
        convert.tensors_of(Path("bad.pth"))
    assert not Path("executed").exists()
    torch.save([torch.zeros(2)], "list.pth")
    with pytest.raises(FedsimError, match="holds no tensors by name"):
        convert.tensors_of(Path("list.pth"))
    with pytest.raises(FedsimError, match="the checkpoint lacks"):
        convert.converted({"a": torch.zeros(2)}, NAME, 32)
