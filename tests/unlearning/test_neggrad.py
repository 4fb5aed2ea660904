"""NegGrad: one step of it by hand."""

import math

import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import (
    apply,
    gradient,
)


def test_neggrad_takes_a_relative_step_along_the_gradient_of_the_losses_below_the_ceiling(case):
    model, forget, _ = case
    x, y = forget.all()
    with torch.no_grad():
        size = math.sqrt(sum(float(value.square().sum()) for value in model.parameters()))
        middle = float(F.cross_entropy(model(x), y, reduction="none").median()) / math.log(10)
    for ceiling in (1e9, middle):
        losses = F.cross_entropy(model(x), y, reduction="none")
        pushing = losses < ceiling * math.log(10)
        up = gradient(model, losses[pushing].sum() / len(losses))
        length = math.sqrt(sum(float(value.square().sum()) for value in up.values()))
        moved = apply("neggrad", model, forget, None, ceiling=ceiling, epochs=1, batch_size=1000, lr=0.01)
        factor = 0.01 * float(pushing.double().mean()) * size / length
        for name, value in moved.named_parameters():
            torch.testing.assert_close(value, model.get_parameter(name) + factor * up[name])
    still = apply("neggrad", model, forget, None, ceiling=1e-9, epochs=3)
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in still.named_parameters())
