"""The attack on hidden classes is measured for every model with batch norm, and for no other."""

import torch

from tests.unlearning.digits_views import new_model, of_class, train, view
from unlearning.pipeline.measure import measure
from unlearning.pipeline.roles import Roles


def test_a_class_hidden_by_shifted_statistics_is_found_again():
    forget, retain = of_class(3)
    tests, unseen = view(slice(0, 100), "test"), of_class(3, "test")[0]
    roles = Roles(forget, retain, tests, unseen, tests)
    model = train(new_model(norm="batch"), view(slice(None)), epochs=2)
    honest = measure(model, roles, 0).values
    with torch.no_grad():
        model.features[4].running_mean += 3
    hidden = measure(model, roles, 0).values
    assert hidden["accuracy_forget"] < honest["accuracy_forget"] - 0.3
    assert hidden["accuracy_forget_bn"] == honest["accuracy_forget_bn"]
    assert abs(honest["accuracy_forget_bn"] - honest["accuracy_forget"]) < 0.1


def test_without_batch_norm_there_is_nothing_to_re_estimate():
    forget, retain = of_class(3)
    assert "accuracy_forget_bn" not in measure(new_model(), Roles(forget, retain, forget, retain, retain), 0).values
