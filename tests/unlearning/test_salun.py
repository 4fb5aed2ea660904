"""SalUn: its limit, and which weights it moves."""

import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import HARD, apply, assert_same_bits, few, gradient, new_model


def test_salun_with_all_weights_salient_is_random_labels():
    model, views = new_model(norm="batch"), few()
    assert_same_bits(apply("salun", model, *views, threshold=1, **HARD), apply("random_labels", model, *views, **HARD))


def test_salun_moves_the_share_of_weights_with_the_largest_gradient_and_no_other(case):
    """Momentum and weight decay are on."""
    model, forget, retain = case
    result = apply("salun", model, forget, retain, threshold=0.3, **HARD)
    x, y = forget.all()
    slope = torch.cat([g.abs().flatten() for g in gradient(model, F.cross_entropy(model(x), y)).values()])
    before, after = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (model, result))
    moved = before != after
    count = round(0.3 * len(slope))
    assert not moved[slope < slope.sort(descending=True).values[count] * 0.999].any()
    assert moved[slope > slope.sort(descending=True).values[count] * 1.001].float().mean() > 0.99
