"""SCRUB: its two passes by hand."""

import torch.nn.functional as F

from tests.unlearning.digits_views import ONE_STEP, apply, assert_one_step, gradient


def test_scrub_steps_away_from_the_teacher_and_then_towards_it(case):
    """By hand: T^2 sum_c p_c log(p_c / q_c) with p, q the teacher's and the student's softmax of logits / T."""
    model, forget, retain = case
    options = ONE_STEP | {"gamma": 0.5, "alpha": 2.0, "temperature": 3.0, "ceiling": 1e9}
    once = apply("scrub", model, forget, retain, **options)  # the teacher's own place: the first pass cannot move
    x, y = retain.all()
    assert_one_step(once, model, gradient(model, 0.5 * F.cross_entropy(model(x), y)))

    def divergence(student, x):
        p, q = ((net(x) / 3).softmax(1) for net in (model, student))
        return 9 * (p.detach() * (p.detach() / q).log()).sum(1).mean()

    for value, slope in zip(once.parameters(), gradient(once, divergence(once, forget.all()[0])).values(), strict=True):
        value.data += 0.1 * slope
    loss = 0.5 * F.cross_entropy(once(x), y) + 2 * divergence(once, x)
    assert_one_step(apply("scrub", model, forget, retain, **(options | {"epochs": 2})), once, gradient(once, loss))
