"""What methods for stages share: rows of new classes, distillation, masks."""

import math

import pytest
import torch
import torch.nn.functional as F

from fedsim.federated.staged import NEW, OLD, PREVIOUS, distillation, masked, new_rows
from tests.strategies.staged_runs import gradients, in_second_stage, shared_batch


def test_new_rows_are_kaimings_with_gain_one():
    rows = new_rows(200, 48, seed=1, stage=2)
    bound = math.sqrt(3 / 48)
    assert rows.abs().max() <= bound
    assert rows.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(rows, new_rows(200, 48, 1, 2))
    assert not torch.equal(rows, new_rows(200, 48, 1, 1))


def test_distillation_is_the_cross_entropy_of_softened_logits_over_some_classes():
    rng = torch.Generator().manual_seed(0)
    logits, teacher = (5 * torch.randn(6, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    classes = torch.tensor([True, False, True, True, False])
    got = distillation(logits, teacher, classes, 2.0)
    kept = [0, 2, 3]
    q, p = (F.softmax(x[:, kept] / 2, 1) for x in (teacher, logits))
    torch.testing.assert_close(got, -(q * p.log()).sum(1))


def test_distillation_has_the_teachers_entropy_as_minimum_and_a_quarter_of_the_scaled_kls_gradient():
    rng = torch.Generator().manual_seed(0)
    teacher = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    every = torch.ones(3, dtype=torch.bool)
    logits = teacher.clone().requires_grad_()
    value = distillation(logits, teacher, every, 2.0).mean()
    q = F.softmax(teacher / 2, 1)
    assert float(value.detach()) == pytest.approx(float(-(q * q.log()).sum(1).mean()), abs=1e-6)
    assert torch.autograd.grad(value, logits)[0].abs().max() <= 1e-6
    other = torch.randn(4, 3, generator=rng, dtype=torch.float64).requires_grad_()
    ours = torch.autograd.grad(distillation(other, teacher, every, 2.0).mean(), other)[0]
    kl = F.kl_div((other / 2).log_softmax(1), q, reduction="batchmean") * 4
    torch.testing.assert_close(ours, torch.autograd.grad(kl, other)[0] / 4)


def test_rows_of_old_classes_learn_from_the_images_only_and_rows_of_new_ones_from_the_samples_only():
    client, state, extras, batch, run = in_second_stage("target")
    old, new = extras.constants[OLD], extras.constants[NEW]
    assert torch.equal(old, ~new)
    grads, _ = gradients(client, state, extras, batch)  # alpha = 0: no images
    assert grads["classifier.weight"][old].abs().max() == 0
    assert grads["classifier.weight"][new].abs().max() > 0
    both, _ = gradients(client, state, extras, batch._replace(shared=shared_batch(extras, run)))
    torch.testing.assert_close(both["classifier.weight"][new], grads["classifier.weight"][new])
    assert both["classifier.weight"][old].abs().max() > 0


def test_masked_logits_are_below_all_others():
    logits = torch.tensor([[-50.0, 3.0, 1.0]])
    assert masked(logits, torch.tensor([True, False, False])).argmax() == 0
    assert PREVIOUS not in (NEW, OLD)
