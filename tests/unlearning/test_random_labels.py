"""Random labels: one step by hand."""

import numpy as np
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import ONE_STEP, apply, assert_one_step, gradient
from unlearning.parts.steps import other_labels


def test_random_labels_step_along_the_gradient_of_the_relabelled_union(case):
    model, forget, retain = case
    wrong = other_labels(forget.y, 10, np.random.default_rng(0).spawn(1)[0])
    x = torch.cat([forget.all()[0], retain.all()[0]])
    union = gradient(model, F.cross_entropy(model(x), torch.cat([wrong, retain.y])))
    assert_one_step(apply("random_labels", model, forget, retain, **ONE_STEP), model, union)
