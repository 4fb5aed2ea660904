"""Each method forgets a digit that a small network knows, and keeps the others."""

from functools import cache

import pytest

from tests.unlearning.digits_views import DIGIT, accuracy, apply, new_model, of_class, train, view


@cache
def original():
    return train(new_model(), view(slice(None)), epochs=8)


@pytest.mark.parametrize(
    ("method", "options", "forget_at_most", "keep_at_least"),
    [
        ("bad_teacher", {}, 0.35, 0.93),
        ("ct", {}, 0.05, 0.92),
        ("eu_k", {}, 0.05, 0.95),
        ("laf", {}, 0.25, 0.95),
        ("laf_r", {}, 0.1, 0.95),
        ("modhifi_u", {}, 0.05, 0.9),
        ("neggrad", {}, 0.3, 0.9),
        ("neggrad_plus", {}, 0.3, 0.95),
        ("not", {}, 0.05, 0.85),
        ("random_labels", {}, 0.05, 0.95),
        ("salun", {}, 0.05, 0.95),
        ("scrub", {}, 0.4, 0.95),
        ("ssd", {"alpha": 5}, 0.1, 0.9),
        ("unsir", {}, 0.05, 0.9),
    ],
)
def test_the_digit_is_forgotten_and_the_others_are_kept(method, options, forget_at_most, keep_at_least):
    forget, retain = of_class(DIGIT)
    assert accuracy(original(), forget) > 0.98
    result = apply(method, original(), forget, retain, **options)
    assert accuracy(result, forget) <= forget_at_most
    assert accuracy(result, retain) >= keep_at_least


def test_fine_tuning_alone_does_not_forget():
    forget, retain = of_class(DIGIT)
    assert accuracy(apply("finetune", original(), forget, retain), forget) > 0.95


def test_laf_without_repulsion_does_not_forget():
    """With a huge temperature the alignment loss only holds kept features in place."""
    forget, retain = of_class(DIGIT)
    assert (
        accuracy(apply("laf", original(), forget, retain, temperature=1e6, lr_unlearn=0, lr_align=2e-3), forget) > 0.9
    )


def test_modhifi_u_of_another_digit_costs_this_one_far_less():
    forget, _ = of_class(DIGIT)
    best = apply("modhifi_u", original(), forget, None)
    other = apply("modhifi_u", original(), of_class(DIGIT + 1)[0], None)
    assert accuracy(best, forget) < accuracy(other, forget) - 0.5
