"""Bad teacher: its first step by hand."""

import numpy as np
import torch

from tests.unlearning.digits_views import apply, gradient, new_model
from unlearning.parts.blocks import reset


def test_bad_teacher_mixes_two_divergences_by_the_sizes_of_the_sets(case):
    """The first step of Adam is lr * sign(gradient); the good teacher's half has no gradient where it starts."""
    model, forget, retain = case
    result = apply("bad_teacher", model, forget, retain, epochs=1, batch_size=1000, lr=0.1, retain_share=1)
    others = np.random.default_rng(0).spawn(1)[0]
    bad = new_model(dtype=torch.float64)
    reset([bad], others)
    x = forget.all()[0]
    p, q = (net(x).softmax(1) for net in (bad, model))
    slope = gradient(model, (p.detach() * (p.detach() / q).log()).sum(1).mean() * 40 / 115)
    for name, value in result.named_parameters():
        start, large = dict(model.named_parameters())[name], slope[name].abs() > 1e-6
        torch.testing.assert_close(value[large], (start - 0.1 * slope[name].sign())[large], rtol=0, atol=1e-3)
