"""Relearn time on a model whose every step is known."""

import itertools
import math

import pytest
import torch
from torch import nn

from fedsim.models.base import Classifier
from unlearning.evaluation.relearn import Relearn, relearn, relearn_ratio

X, Y = torch.tensor([[1.0]]), torch.tensor([0])


def two_class_model():
    """Logits (w0 x + b0, w1 x + b1), all zero."""
    model = Classifier(nn.Identity(), 1, 2)
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    return model


def known_steps(lr, loss, momentum=0.0):
    """The difference m of the logits on x = 1, y = 0 has the gradient 4 sigma(-m): two weights, two biases."""
    m = velocity = 0.0
    for step in itertools.count():
        if math.log(1 + math.exp(-m)) <= loss:
            return step
        velocity = momentum * velocity + 4 / (1 + math.exp(m))
        m += lr * velocity


@pytest.mark.parametrize(("lr", "loss"), [(1.0, 0.3), (0.3, 0.5), (1.0, 0.15), (0.1, 0.7)])
def test_steps_are_those_of_the_scalar_recursion(lr, loss):
    found = relearn(two_class_model(), itertools.repeat((X, Y)), (X, Y), threshold=loss, lr=lr)
    assert found.steps == known_steps(lr, loss)
    assert found.reached
    assert found.start == pytest.approx(math.log(2))
    assert found.end <= loss


def test_momentum_is_torchs():
    found = relearn(two_class_model(), itertools.repeat((X, Y)), (X, Y), threshold=0.05, lr=0.1, momentum=0.9)
    assert found.steps == known_steps(0.1, 0.05, 0.9) < known_steps(0.1, 0.05)


def test_the_model_is_left_alone_and_frozen_parts_learn():
    model = two_class_model().train().requires_grad_(False)
    found = relearn(model, [(X, Y)] * 3, (X, Y), threshold=0.0)
    assert found == Relearn(3, False, found.start, found.end, "loss", 0.0)
    assert found.end < found.start
    assert model.training
    assert not any(p.requires_grad or p.any() for p in model.parameters())


def test_an_accuracy_is_reached_from_below():
    x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])
    found = relearn(two_class_model(), itertools.repeat((x, y)), (x, y), threshold=1.0, criterion="accuracy")
    assert (found.start, found.end, found.steps) == (0.5, 1.0, 1)


@pytest.mark.parametrize("loss", [0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.04, 0.03])
def test_a_count_is_exact_up_to_ten_and_at_most_a_tenth_too_large(loss):
    exact = known_steps(0.3, loss)
    found = relearn(two_class_model(), itertools.repeat((X, Y)), (X, Y), threshold=loss, lr=0.3)
    assert exact <= found.steps <= (exact if exact <= 10 else 1.1 * exact + 1)
    assert found.end <= loss


def test_the_last_step_is_looked_at():
    short = relearn(two_class_model(), [(X, Y)] * 12, (X, Y), threshold=0.0, lr=0.1)
    assert (short.steps, short.reached) == (12, False)
    enough = relearn(two_class_model(), [(X, Y)] * 12, (X, Y), threshold=short.end, lr=0.1)
    assert (enough.steps, enough.reached) == (12, True)


def test_dropout_and_running_statistics_play_no_part():
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), 4, 2)
    x, y = torch.randn(8, 2), torch.arange(8) % 2
    first, second = (relearn(model, [(x[:1], y[:1])] * 5, (x, y), lr=0.1) for _ in range(2))
    assert first == second
    assert first.steps == 5


def test_ratio_to_the_oracle():
    def after(steps, reached=True):
        return Relearn(steps, reached, 1.0, 0.0, "loss", 0.1)

    assert relearn_ratio(after(5), after(20)) == 0.25
    assert relearn_ratio(after(50, reached=False), after(20)) == 2.5  # at least: censored, not left out
    assert relearn_ratio(after(5), after(0)) is None
