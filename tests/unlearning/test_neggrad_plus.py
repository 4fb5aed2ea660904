"""NegGrad+: one step of it by hand."""

import torch.nn.functional as F

from tests.unlearning.digits_views import ONE_STEP, apply, assert_one_step, gradient


def test_neggrad_plus_steps_along_both_gradients(case):
    model, forget, retain = case
    (x, y), (x_f, y_f) = retain.all(), forget.all()
    both = gradient(model, 0.7 * F.cross_entropy(model(x), y) - 0.3 * F.cross_entropy(model(x_f), y_f))
    assert_one_step(apply("neggrad_plus", model, forget, retain, alpha=0.7, ceiling=1e9, **ONE_STEP), model, both)
