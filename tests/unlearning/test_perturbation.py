"""The methods that change weights by a rule: SSD, CT, NoT, MSG."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, new_model
from unlearning.ct import transpose_kernels
from unlearning.msg import kernel_names
from unlearning.not_ import negate_first
from unlearning.ssd import dampened, importance


def test_ssd_importance_is_the_mean_square_of_the_batches_gradients():
    model, (forget, _) = new_model(dtype=torch.float64), few(20, dtype=torch.float64)
    found = importance(model, forget, 8, np.random.default_rng(3))
    order = np.random.default_rng(3).permutation(20)
    total = dict.fromkeys(found, 0.0)
    for rows in (order[:8], order[8:16], order[16:]):
        model.zero_grad()
        x, y = forget.all()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        for name, parameter in model.named_parameters():
            total[name] = total[name] + parameter.grad**2 / 3
    for name, value in found.items():
        torch.testing.assert_close(value, total[name], rtol=1e-10, atol=1e-15)


def test_ssd_dampens_as_a_loop_over_weights_does_and_never_divides_by_zero():
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(400, generator=rng, dtype=torch.float64)
    forget, everything = (torch.rand(400, generator=rng, dtype=torch.float64) ** 4 for _ in range(2))
    forget[:40], everything[20:60] = 0, 0
    for alpha, dampening in [(10.0, 1.0), (1.0, 0.5), (0.2, 3.0), (0.0, 1.0)]:
        result = dampened(theta, forget, everything, alpha, dampening)
        for t, f, a, r in zip(theta.tolist(), forget.tolist(), everything.tolist(), result.tolist(), strict=True):
            expected = t * min(1, dampening * a / f) if f > alpha * a else t
            assert r == pytest.approx(expected, abs=0, rel=1e-12)
        assert (result.abs() <= theta.abs()).all()
        assert torch.equal(result[:40], theta[:40])
    assert torch.equal(dampened(theta, forget, everything + 1e-6, 1e30, 1.0), theta)


def test_ssd_leaves_weights_alone_that_nothing_to_forget_uses():
    """An input pixel that is 0 in all images has no gradient, so its weights have no importance at all."""
    model, (forget, retain) = new_model("mlp"), few()
    blank = (forget.x.float().flatten(1).amax(0) == 0) & (retain.x.float().flatten(1).amax(0) == 0)
    views = [type(v)(v.x, v.y) for v in (forget, retain)]  # not centred: 0 stays 0
    result = apply("ssd", model, *views, alpha=0.5)
    assert blank.any()
    assert differs(result, model)
    assert torch.equal(result.features[1].weight[:, blank], model.features[1].weight[:, blank])


def test_ct_transposes_each_square_kernel_and_twice_is_the_identity():
    model = new_model("resnet8", width=8)
    turned = copy.deepcopy(model)
    transpose_kernels(turned)
    for module, other in zip(model.modules(), turned.modules(), strict=True):
        if isinstance(module, torch.nn.Conv2d):
            for c, i in np.ndindex(*module.weight.shape[:2]):
                assert torch.equal(other.weight[c, i], module.weight[c, i].T)
    assert differs(turned, model) == {n for n, v in model.state_dict().items() if v.ndim == 4 and v.shape[-1] == 3}
    transpose_kernels(turned)
    assert_same_bits(turned, model)


def test_not_negates_the_first_layers_and_twice_is_the_identity():
    model = new_model(norm="batch")
    turned = copy.deepcopy(model)
    negate_first(turned, 2)
    assert differs(turned, model) == {f"features.{n}.{kind}" for n in (0, 3) for kind in ("weight", "bias")}
    assert torch.equal(turned.features[3].weight, -model.features[3].weight)
    negate_first(turned, 2)
    assert_same_bits(turned, model)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_msg_draws_the_weights_anew_that_tell_least(name):
    """Against both gradients in one batch, with the sign of the forgotten samples' turned."""
    model, (forget, retain) = new_model(name, dtype=torch.float64), few(dtype=torch.float64)
    result = apply("msg", model, forget, retain, epochs=0, share=0.25)
    names = kernel_names(model)
    slopes = []
    for view in (retain, forget):
        model.zero_grad()
        x, y = view.all()
        F.cross_entropy(model(x), y).backward()
        slopes.append(torch.cat([dict(model.named_parameters())[n].grad.flatten() for n in names]))
    tells = (slopes[0] - slopes[1]).abs()
    changed = torch.cat([(result.state_dict()[n] != model.state_dict()[n]).flatten() for n in names])
    assert differs(result, model) <= set(names)
    assert changed.sum() == round(0.25 * len(changed))
    assert tells[changed].max() <= tells[~changed].min() * (1 + 1e-9) + 1e-15


def test_msg_damps_the_gradients_of_all_other_weights():
    """Damped to zero, without weight decay, only the weights that are new still move."""
    model, views = new_model(), few()
    options = {"share": 0.25, "damping": 0.0, "weight_decay": 0.0}
    fresh, repaired = (apply("msg", model, *views, epochs=epochs, **options) for epochs in (0, 2))
    assert differs(repaired, fresh) == differs(fresh, model)
    for name in kernel_names(model):
        new = fresh.state_dict()[name] != model.state_dict()[name]
        assert not (repaired.state_dict()[name] != fresh.state_dict()[name])[~new].any()
        assert (repaired.state_dict()[name] != fresh.state_dict()[name])[new].float().mean() > 0.5
