"""Random labels: one step by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import ONE_STEP, apply, assert_one_step, few, gradient, new_model
from unlearning.parts.steps import other_labels


def test_random_labels_step_along_the_gradient_of_the_relabelled_union(case):
    model, forget, retain = case
    wrong = other_labels(forget.y, 10, np.random.default_rng(0).spawn(1)[0])
    x = torch.cat([forget.all()[0], retain.all()[0]])
    union = gradient(model, F.cross_entropy(model(x), torch.cat([wrong, retain.y])))
    assert_one_step(apply("random_labels", model, forget, retain, **ONE_STEP), model, union)


@pytest.mark.parametrize("method", ["random_labels", "salun"])
def test_wrong_labels_for_some_cost_others_nothing_with_batch_norm(method):
    """What is forgotten is like what is kept: a sixth of the digits."""
    model, (forget, retain) = new_model(norm="batch"), few(100, 600)
    model = apply("finetune", model, forget, retain, epochs=20, batch_size=32, lr=0.05)

    def right(net):
        return float((net.eval()(retain.all()[0]).argmax(1) == retain.y).double().mean())

    assert right(model) > 0.95
    assert right(apply(method, model, forget, retain)) > right(model) - 0.03
