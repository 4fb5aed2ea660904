"""L1-sparse: one step by hand, and how the penalty fades."""

import pytest
import torch.nn.functional as F

from tests.unlearning.digits_views import ONE_STEP, apply, assert_one_step, gradient
from unlearning.l1_sparse import penalty_at


def test_l1_sparse_adds_a_fading_l1_norm(case):
    model, forget, retain = case
    x, y = retain.all()
    norm = sum(parameter.abs().sum() for parameter in model.parameters())
    slope = gradient(model, F.cross_entropy(model(x), y) + 0.01 * norm)
    options = ONE_STEP | {"alpha": 0.01, "free_epochs": 0}
    assert_one_step(apply("l1_sparse", model, forget, retain, **options), model, slope)
    assert [penalty_at(e, 3.0, epochs=5, free_epochs=2) for e in range(5)] == pytest.approx([3, 2, 1, 0, 0])
    assert penalty_at(0, 3.0, epochs=2, free_epochs=2) == 0
