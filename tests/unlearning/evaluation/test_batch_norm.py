"""Batch norm re-estimated: the statistics are those of the samples, and nothing else moves."""

import copy

import torch
from torch import nn

from tests.unlearning.digits_views import new_model, of_class, train, view
from unlearning.evaluation.batch_norm import batch_norms, re_estimated
from unlearning.pipeline.measure import measure
from unlearning.pipeline.roles import Roles


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.9), nn.Linear(4, 2)).double()


def test_statistics_become_those_of_the_inputs_and_weights_stay() -> None:
    model, x = net(), 3 + 2 * torch.randn(40, 3, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    result = re_estimated(model, [x[:20], x[20:], x[:1]])
    hidden = model[0](x).detach().reshape(2, 20, 4)
    torch.testing.assert_close(result[1].running_mean, hidden.mean((0, 1)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result[1].running_var, hidden.var(1).mean(0), rtol=1e-10, atol=1e-12)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, result.state_dict()[name]), name
    assert not result.training


def test_a_shift_that_batch_norm_removes_is_undone() -> None:
    """What hides a class by moving a channel's mean comes back."""
    model, x = net(), torch.randn(60, 3, dtype=torch.float64)
    model = re_estimated(model, [x])
    hidden = copy.deepcopy(model)
    with torch.no_grad():
        hidden[0].bias += 5
    assert not torch.allclose(hidden(x), model(x), atol=0.1)
    torch.testing.assert_close(re_estimated(hidden, [x])(x), model(x), rtol=1e-8, atol=1e-10)


def test_only_running_statistics_can_be_re_estimated() -> None:
    assert len(batch_norms(net())) == 1
    assert not batch_norms(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.GroupNorm(2, 4)))


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
