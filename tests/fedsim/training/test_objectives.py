"""Parts of local objectives."""

import pytest
import torch

from fedsim.training.objectives import proximal_penalty


def test_the_gradient_of_the_penalty_is_mu_times_the_displacement():
    rng = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 20), "b": (40,)}
    start, moved = (
        {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(2)
    )
    leaves = {name: value.clone().requires_grad_() for name, value in moved.items()}
    penalty = proximal_penalty(leaves | {"kept.by.client": torch.ones(5)}, start, 0.7)
    expected = 0.7 / 2 * sum(float((moved[n] - start[n]).flatten() @ (moved[n] - start[n]).flatten()) for n in start)
    assert penalty.item() == pytest.approx(expected, rel=1e-12)
    for name, gradient in zip(start, torch.autograd.grad(penalty, list(leaves.values())), strict=True):
        displacement = moved[name] - start[name]
        assert (displacement > 0).any()  # both signs: |w - w0| has the same gradient norm, not the same gradient
        assert (displacement < 0).any()
        torch.testing.assert_close(gradient, 0.7 * displacement, rtol=1e-12, atol=0)
