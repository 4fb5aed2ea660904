"""What the steps of methods make of samples with several labels; classes are tested with the methods."""

import math

import numpy as np
import torch
from torch.distributions import Bernoulli, kl_divergence

from unlearning.parts.steps import capped_cross_entropy, distillation, other_labels

DRAWS = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (3 * torch.randn(5, 4, generator=DRAWS) for _ in range(2))
LABELS = torch.randint(0, 2, (5, 4), generator=DRAWS, dtype=torch.uint8)


def test_distillation_sums_the_divergences_of_the_labels() -> None:
    expected = 4 * kl_divergence(Bernoulli(logits=TEACHER / 2), Bernoulli(logits=STUDENT / 2)).sum(1)
    torch.testing.assert_close(distillation(STUDENT, TEACHER, 2.0, several_labels=True), expected)


def test_labels_of_a_product_are_classes_of_its_outcomes() -> None:
    """L labels are one class of 2^L, whose logits are sums: both ways have one divergence."""
    outcomes = torch.tensor([[float(k >> place & 1) for place in range(4)] for k in range(16)])
    joint = distillation(STUDENT @ outcomes.T, TEACHER @ outcomes.T, 1.0)
    torch.testing.assert_close(distillation(STUDENT, TEACHER, 1.0, several_labels=True), joint)


def test_the_cap_is_in_units_of_a_guess() -> None:
    sure = torch.where(LABELS.bool(), -50.0, 50.0).requires_grad_()
    loss = capped_cross_entropy(sure, LABELS, 2.0)
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(2)))
    loss.backward()
    assert not sure.grad.any()


def test_wrong_labels_are_the_opposite() -> None:
    assert torch.equal(other_labels(LABELS, 4, np.random.default_rng(0)), 1 - LABELS)


def test_wrong_labels_are_wrong_and_all_equally_likely():
    y = torch.from_numpy(np.random.default_rng(0).integers(0, 5, 50_000))
    wrong = other_labels(y, 5, np.random.default_rng(1))
    counts = torch.bincount(5 * y + wrong, minlength=25).view(5, 5) / 50_000
    assert counts.diag().eq(0).all()
    # 20 cells of probability 0.05: four standard deviations are 4 sqrt(0.05 * 0.95 / 50,000) = 0.0039
    assert ((counts - 0.05 * (1 - torch.eye(5))).abs() < 0.0039).all()
