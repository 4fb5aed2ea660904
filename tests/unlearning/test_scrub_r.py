from dataclasses import replace

import pytest
import torch

from fedsim.errors import FedsimError
from tests.unlearning.digits_views import apply, assert_same_bits, differs, new_model, train, view
from unlearning.parts.steps import union

EPOCHS = 5


@pytest.fixture(scope="module")
def case():
    """A model that knows 60 samples by heart, and never-seen ones of their classes."""
    forget, retain = view(slice(0, 60)), view(slice(60, 400))
    model = train(new_model(), union(forget, retain), 15)
    return model, replace(forget, unseen=view(slice(0, 300), "test")), retain


def errors_by_class(model, samples):
    model.eval()
    with torch.no_grad():
        x, y = samples.all()
        wrong = (model(x).argmax(1) != y).double()
    return torch.stack([wrong[y == digit].mean() for digit in range(10)])


@pytest.mark.parametrize("options", [{"max_epochs": EPOCHS, "lr": 0.02}, {"max_epochs": 2, "lr": 0.05, "ceiling": 8}])
def test_it_rewinds_to_the_epoch_whose_forget_error_is_nearest_to_a_never_seen_one(case, options):
    model, forget, retain = case
    students = [apply("scrub", model, forget, retain, epochs=e + 1, **options) for e in range(EPOCHS)]
    mix = torch.bincount(forget.y, minlength=10) / len(forget)
    assert (mix > 0).all()
    found = [float(mix.double() @ errors_by_class(student, forget)) for student in students]
    reference = float(mix.double() @ errors_by_class(students[-1], forget.unseen))
    distances = [round(abs(error - reference), 9) for error in found]
    nearest = max(e for e in range(EPOCHS) if distances[e] == min(distances))
    assert nearest < EPOCHS - 1  # or nothing would be rewound here
    result = apply("scrub_r", model, forget, retain, epochs=EPOCHS, **options)
    assert_same_bits(result, students[nearest])
    assert differs(result, students[-1])


def test_classes_that_never_seen_samples_lack_are_left_out(case):
    model, forget, retain = case
    digit = int(forget.y[0])
    some = forget.unseen.y != digit
    few = replace(forget.unseen, x=forget.unseen.x[some], y=forget.unseen.y[some])
    options = {"epochs": 1, "max_epochs": 1}
    once = apply("scrub_r", model, replace(forget, unseen=few), retain, **options)
    assert_same_bits(once, apply("scrub", model, forget, retain, **options))  # of one epoch there is no choice
    only = forget.y == digit
    with pytest.raises(FedsimError, match="the test set has none besides those for the attacks; use scrub"):
        apply("scrub_r", model, replace(forget, x=forget.x[only], y=forget.y[only], unseen=few), retain, **options)
