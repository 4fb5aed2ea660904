"""Which layers of a model have components that can be scored, and the sums taken there."""

import pytest
import torch
from torch import nn

from fedsim.models.fidelity import component_sums, editable_layers
from tests.fedsim.models.zoo import inputs, small_model


@pytest.mark.parametrize(
    ("name", "norm", "found"),
    [
        ("logistic", None, []),
        ("mlp", None, ["features.3"]),
        ("cnn", "batch", ["features.3", "features.7"]),
        ("vit", None, [f"features.encoder.{block}.mlp.4" for block in (1, 2)]),
    ],
)
def test_editable_layers_are_convolutions_and_down_projections_but_the_first(name, norm, found):
    assert list(editable_layers(small_model(name, norm))) == found


def test_every_convolution_of_a_residual_network_but_the_first_is_editable():
    model = small_model("resnet8", "batch")
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    names = list(editable_layers(model))
    assert sorted(names) == sorted(convolutions[1:])
    assert names[-1] == "features.5.residual.3"  # not the shortcut, which is registered after it
    torchvision = list(editable_layers(small_model("tv_resnet18", "batch")))
    assert torchvision[-5:-3] == ["features.layer4.0.downsample.0", "features.layer4.0.conv1"]


def test_a_grouped_convolution_is_left_out():
    model = small_model("cnn")
    model.features[2] = nn.Conv2d(8, 32, 3, stride=2, padding=1, groups=8)
    assert list(editable_layers(model)) == ["features.5"]


@pytest.mark.parametrize("name", ["resnet8", "vit", "mlp"])
def test_sums_are_taken_in_evaluation_mode_at_the_layers_own_inputs_and_leave_no_trace(name):
    model, x = small_model(name).double().train(), inputs(name, 6).double()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    layers = editable_layers(model)
    sums = component_sums(model, layers, [x[:4], x[4:]])
    assert set(sums) == set(layers)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    seen = {}
    for key, layer in layers.items():
        hook = layer.register_forward_hook(lambda layer, _, y, key=key: seen.update({key: y - _bias(layer, y)}))
        model.eval()(x)
        hook.remove()
        energy = seen[key].detach().square()
        energy = energy.reshape(-1, energy.shape[-1]).sum(0) if isinstance(layer, nn.Linear) else energy.sum((0, 2, 3))
        torch.testing.assert_close(sums[key].r.sum(1), energy, rtol=1e-9, atol=1e-12)
        assert not layer._forward_pre_hooks


def _bias(layer, y):
    if layer.bias is None:
        return 0
    return layer.bias.view([-1] + [1] * (y.ndim - 2)) if isinstance(layer, nn.Conv2d) else layer.bias
