"""SSD: importances, and what is dampened by them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, differs, few, new_model
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
