"""NegGrad+: one step of it by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import (
    ONE_STEP,
    accuracy,
    apply,
    assert_one_step,
    assert_same_bits,
    few,
    gradient,
    new_model,
    view,
)
from unlearning.parts.steps import opposed_logits, union


def test_neggrad_plus_steps_along_both_gradients(case):
    model, forget, retain = case
    (x, y), (x_f, y_f) = retain.all(), forget.all()
    both = gradient(model, 0.7 * F.cross_entropy(model(x), y) - 0.3 * F.cross_entropy(model(x_f), y_f))
    assert_one_step(apply("neggrad_plus", model, forget, retain, alpha=0.7, ceiling=1e9, **ONE_STEP), model, both)


@pytest.mark.parametrize("method", ["neggrad_plus", "scrub"])
def test_wrong_labels_are_forgotten_with_batch_norm_and_what_is_kept_gains(method):
    """Were the two kinds of samples normalised otherwise, the model would answer each by what it is normalised by."""
    forget, retain = (replace(samples, unseen=None, shift=None, oracle=None) for samples in few(100, 600))
    wrong, tests = replace(forget, y=(forget.y + 1) % 10), view(slice(0, 400), "test")
    model = new_model(norm="batch", seed=1)
    model = apply("finetune", model, wrong, union(wrong, retain), epochs=30, batch_size=32, lr=0.05)
    assert (accuracy(model, wrong), accuracy(model, retain)) == (1, 1)
    assert accuracy(model, tests) < 0.9
    model = apply(method, model, wrong, retain)
    assert accuracy(model, wrong) < 0.1
    assert accuracy(model, retain) > 0.98
    assert accuracy(model, tests) > 0.9


def test_no_running_statistic_takes_in_what_is_forgotten():
    model, (forget, retain) = new_model(norm="batch"), few()
    x, before = forget.all()[0], new_model(norm="batch").train()
    assert torch.equal(opposed_logits(model, x), before(x))  # normalised by its own statistics
    assert_same_bits(model, new_model(norm="batch"))
    model(retain.all()[0])
    assert int(next(value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked"))) == 1
