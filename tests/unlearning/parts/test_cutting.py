"""Cuts: what is kept, what it costs, what compensation rebuilds, and sums that clients add up to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.channels import channel_groups, cost, layer_positions
from fedsim.models.config import ModelConfig
from fedsim.randomness import generator
from unlearning.api.pruner import Pruner, PruningTask, describe_pruners, load_pruner
from unlearning.parts.cutting import Corrections, Target, cut, moments_of, settled
from unlearning.parts.layer_sums import ask_here

SHAPE = (2, 8, 8)


def model_of(norm: str = "batch", name: str = "cnn") -> Classifier:
    model = build_model(ModelConfig(name=name, norm=norm), SHAPE, 5, 3).double()
    model.train()
    for _ in range(3):
        model(torch.randn(32, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))
    return model.eval()


def inputs(count: int = 60) -> Tensor:
    return torch.randn(count, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def cut_by(name: str, model: Classifier, target: str, how: Corrections | None = None) -> Classifier:
    pruner = load_pruner(name)
    options = pruner.config(name=name)
    ask = ask_here(model, SHAPE, lambda: [inputs()])
    return cut(model, SHAPE, pruner, options, Target.parse(target), ask, how or Corrections(), generator(0, "cut"))


@pytest.mark.parametrize("name", sorted(describe_pruners()))
@pytest.mark.parametrize("of", ["flops", "params"])
def test_the_target_is_met_and_hardly_more_than_that(name: str, of: str) -> None:
    model = model_of("batch", "resnet8")
    positions = layer_positions(model, SHAPE)
    small = cut_by(name, model, f"{of}=0.5", Corrections(batch_norm=name == "modhifi_p"))
    before, after = cost(model, positions), cost(small, positions)
    share = after.flops / before.flops if of == "flops" else after.parameters / before.parameters
    assert 0.4 < share <= 0.5
    assert small(inputs(3)).shape == (3, 5)


@pytest.mark.parametrize("name", sorted(describe_pruners()))
def test_keeping_everything_is_the_same_bits(name: str) -> None:
    model = model_of()
    same = cut_by(name, model, "keep=1")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in same.state_dict().items())


def test_settled_batch_norms_pass_on_zero_mean_and_unit_variance() -> None:
    """Running statistics are those of what each batch norm gets once all of them have theirs, as hooks tell."""
    model = model_of("batch", "resnet8")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.5)
            module.running_var.mul_(3.0)
    questions: list[str] = []
    ask = ask_here(model, SHAPE, lambda: [inputs()[:25], inputs()[25:]])

    def counted(what: Any, about: Classifier) -> dict[str, Tensor]:
        questions.append(what)
        return ask(what, about)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    calm = settled(model, counted)
    seen: dict[str, Tensor] = {}
    norms = {name: module for name, module in calm.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, module in norms.items():
        module.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, x[0]))
    calm(inputs())
    assert len(questions) <= len(norms) == 9
    for name, module in norms.items():
        spread = module.running_var.sqrt()
        assert ((seen[name].mean((0, 2, 3)) - module.running_mean) / spread).abs().max() < 0.02
        assert (seen[name].var((0, 2, 3)) / module.running_var - 1).abs().max() < 0.02
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_channel_without_signal_goes_first() -> None:
    """One that never fires is kept by no fidelity, however large its filter is."""
    model = model_of("none")
    first = model.features[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[3] *= 50
        first.bias[3] = -1e6
    groups = channel_groups(model, SHAPE)
    task = PruningTask(model, groups, moments_of(ask_here(model, SHAPE, lambda: [inputs()])("patches", model), groups))
    for name, goes in (("modhifi_p", True), ("l2", False)):
        pruner: Pruner = load_pruner(name)
        places = pruner.order(task, pruner.config(name=name), generator(0, "order"))["0"]
        assert bool(places.argmax() == 3) == goes
        assert bool(places.argmin() == 3) != goes


@pytest.mark.parametrize("target", ["flops=0", "flops=1.5", "speed=2", "flops", "keep=-1", "params=nan"])
def test_bad_targets(target: str) -> None:
    with pytest.raises(FedsimError, match=r"^--target .*: must be flops=, params= or keep= and a share above 0"):
        Target.parse(target)


def test_a_model_without_hidden_channels_is_refused() -> None:
    with pytest.raises(FedsimError, match=r"^model.name: this model has no channels that can be removed"):
        cut_by("l1", build_model(ModelConfig(name="logistic"), SHAPE, 5, 0).double(), "flops=0.5")


def test_parts_of_a_target_multiply_to_it() -> None:
    parts = [Target("flops", 0.25).part(number, 2).share for number in (1, 2)]
    assert np.allclose(parts, [0.5, 0.25])
