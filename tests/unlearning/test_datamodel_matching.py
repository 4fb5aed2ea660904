"""Datamodel matching: what leaves a model as it is, and what moves it where."""

from dataclasses import replace

import torch

from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, logits
from unlearning.parts.matching import matching_loss


def test_nothing_to_subtract_leaves_the_model_bit_for_bit(model) -> None:
    views = [replace(view, shift=torch.zeros(len(view), 10)) for view in few()]
    assert_same_bits(apply("datamodel_matching", model, *views, epochs=3, batch_size=37), model)


def test_logits_move_by_the_shift(model) -> None:
    forget, retain = few(40, 200)
    of_label = torch.nn.functional.one_hot(forget.y, 10) * 2.0  # the forgotten samples lose 2 on their own class
    forget, retain = replace(forget, shift=of_label), replace(retain, shift=torch.zeros(200, 10))
    found = apply("datamodel_matching", model, forget, retain, epochs=100, lr=3e-3)
    goals = [logits(model, view) - view.shift for view in (forget, retain)]
    after = [
        float(matching_loss(logits(found, view), goal)) for view, goal in zip((forget, retain), goals, strict=True)
    ]
    assert after[0] < 0.4 * float(of_label.square().mean())  # what it was before
    assert after[1] < 0.4 * float(of_label.square().mean())
    lost = (logits(model, forget) - logits(found, forget)).gather(1, forget.y[:, None])
    assert float(lost.mean()) > 0.5


def test_running_statistics_stay(model) -> None:
    views = [replace(view, shift=torch.ones(len(view), 10)) for view in few()]
    found = apply("datamodel_matching", model, *views, epochs=2)
    assert not [name for name in differs(found, model) if "running" in name or "num_batches" in name]
    assert differs(found, model)
