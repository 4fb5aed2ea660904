"""The exact properties of LAF and LAF+R (the paper's invariants), and what they do."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, new_model, random
from unlearning import laf
from unlearning.laf import LafConfig, alignment_loss, distance, fit, saturate, unlearning_loss
from unlearning.parts.vae import new_vae, squared_error

SHORT = {"epochs": 2, "min_steps": 0, "vae_epochs": 2, "batch_size": 16}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0, 20.0])
def test_the_alignment_loss_is_the_sum_of_log_ratios(temperature):
    e, o, e_f, o_f = (random(n, 30, seed=seed) for seed, n in enumerate((32, 32, 20, 20)))
    d, d_f = (
        [1 - float(a @ b / (a.norm() * b.norm())) for a, b in zip(*pair, strict=True)] for pair in ((e, o), (e_f, o_f))
    )
    naive = sum(math.log(math.exp(x) / sum(math.exp(y / temperature) for y in d_f)) for x in d)
    assert float(alignment_loss(distance(e, o), distance(e_f, o_f), temperature)) == pytest.approx(naive, abs=1e-8)
    by_torch = F.cosine_embedding_loss(e, o, torch.ones(32), reduction="sum")
    assert float(distance(e, o).sum()) == pytest.approx(float(by_torch), abs=1e-8)


def test_the_alignment_loss_starts_where_it_must_and_stays_in_its_range():
    zero = torch.zeros(32)
    assert float(alignment_loss(zero, zero, 20.0)) == pytest.approx(-32 * math.log(32), abs=1e-3)  # -110.904
    for seed in range(20):
        d, d_f = 2 * torch.rand(7, generator=torch.manual_seed(seed)), 2 * torch.rand(5)
        assert -7 * (math.log(5) + 2 / 3) <= float(alignment_loss(d, d_f, 3.0)) <= 7 * (2 - math.log(5))


def test_the_alignment_loss_pulls_kept_samples_alike_and_pushes_forgotten_ones_by_softmax():
    d, d_f = (random(n, seed=n).abs().requires_grad_() for n in (9, 6))
    g, g_f = torch.autograd.grad(alignment_loss(d, d_f, 5.0), (d, d_f))
    torch.testing.assert_close(g, torch.ones_like(g), rtol=0, atol=1e-12)
    torch.testing.assert_close(g_f, -(9 / 5) * (d_f.detach() / 5).softmax(0), rtol=1e-10, atol=0)


def test_at_the_original_features_the_alignment_loss_has_no_gradient():
    """Where forgetting by it begins, it is stationary up to rounding."""
    model, (forget, retain) = new_model(dtype=torch.float64), few(32, 32, dtype=torch.float64)
    original = copy.deepcopy(model.features)
    d, d_f = (distance(model.features(v.all()[0]), original(v.all()[0]).detach()) for v in (retain, forget))
    slopes = torch.autograd.grad(alignment_loss(d, d_f, 5.0), list(model.features.parameters()))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-12


def test_the_saturation_and_the_unlearning_loss_stay_in_their_ranges():
    m = torch.tensor([0, 1e-9, 0.5, 1, 10, 100, 1e6], dtype=torch.float64, requires_grad=True)
    phi = saturate(m)
    assert float(phi[0].detach()) == 1
    assert ((phi >= 1) & (phi < math.e)).all()
    slope = torch.autograd.grad(phi.sum(), m)[0]
    assert slope[3:6].tolist() == pytest.approx([0.41218, 0.02051, 2.64e-4], rel=2e-3)  # exp(m/(m+1)) / (m+1)^2
    for seed in range(20):
        m_r, m_f = random(32, seed=seed).exp(), random(20, seed=seed + 99).exp() * 10
        assert 32 - math.e * 20 < float(unlearning_loss(m_r, m_f)) < math.e * 32 - 20


def test_with_one_vae_one_batch_and_one_noise_the_unlearning_loss_is_zero_and_flat():
    model, (forget, _) = new_model(dtype=torch.float64), few(dtype=torch.float64)
    h = new_vae(random(1, 64), 8, sigmoid=True, rng=np.random.default_rng(0))
    e = model.features(forget.all()[0])
    m, m_f = (squared_error(h, e, np.random.default_rng(5)) for _ in range(2))
    loss = unlearning_loss(m, m_f)
    assert float(loss.detach()) == 0
    assert all((slope.abs() < 1e-13).all() for slope in torch.autograd.grad(loss, list(model.features.parameters())))


def test_a_fitted_vae_explains_what_it_was_fitted_to_and_moves_no_further():
    """Two far clusters in (0, 1): fitted to one, the error of the other is larger."""
    near, far = (0.5 + shift + 0.02 * random(100, 16, seed=seed) for seed, shift in ((0, -0.3), (1, 0.3)))
    vae = fit(near, LafConfig(name="laf", vae_epochs=30), np.random.default_rng(0))
    errors = [float(squared_error(vae, e, np.random.default_rng(1)).mean()) for e in (near, far)]
    assert errors[0] < 0.2 < 2 < errors[1]
    assert not any(parameter.requires_grad for parameter in vae.parameters())


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_only_the_features_weights_move_and_no_running_statistic(name):
    model, views = new_model(name, "batch"), few()
    result = apply("laf", model, *views, **SHORT)
    assert differs(result, model) == {f"features.{key}" for key, _ in model.features.named_parameters()}


def test_without_both_rates_nothing_moves_and_each_loss_alone_moves_the_features():
    model, views = new_model(norm="batch"), few()
    assert_same_bits(apply("laf", model, *views, lr_unlearn=0, lr_align=0, **SHORT), model)
    both = apply("laf", model, *views, **SHORT)
    for alone in ({"lr_unlearn": 0}, {"lr_align": 0}):
        one = apply("laf", model, *views, **SHORT, **alone)
        assert differs(one, model)
        assert differs(one, both)


@pytest.mark.parametrize(("num_forget", "num_retain", "steps"), [(40, 75, 3), (75, 40, 3), (33, 32, 2), (5, 75, 1)])
def test_an_epoch_ends_with_the_smaller_set(num_forget, num_retain, steps, monkeypatch):
    calls = []
    monkeypatch.setattr(laf, "alignment_loss", lambda *parts: calls.append(1) or alignment_loss(*parts))
    options = {"vae_epochs": 0, "batch_size": 16}
    apply("laf", new_model(), *few(num_forget, num_retain), epochs=4, min_steps=0, **options)
    assert len(calls) == 4 * steps
    apply("laf", new_model(), *few(num_forget, num_retain), epochs=1, min_steps=5, **options)
    assert len(calls) == 4 * steps + math.ceil(5 / steps) * steps  # whole passes


def test_the_two_optimisers_have_separate_moments():
    """By hand: on the first step both take lr * sign(gradient), the second where the first one led."""
    model, (forget, retain) = new_model(dtype=torch.float64), few(16, 16, dtype=torch.float64)
    options = {
        "epochs": 1,
        "min_steps": 0,
        "vae_epochs": 0,
        "batch_size": 16,
        "lr_unlearn": 1e-2,
        "lr_align": 2e-2,
        "temperature": 1.0,
    }
    first = apply("laf", model, forget, retain, **(options | {"lr_align": 0}))
    both = apply("laf", model, forget, retain, **options)
    original = model.features
    d, d_f = (distance(first.features(v.all()[0]), original(v.all()[0]).detach()) for v in (retain, forget))
    slopes = torch.autograd.grad(alignment_loss(d, d_f, 1.0), list(first.features.parameters()))
    for a, b, slope in zip(first.features.parameters(), both.features.parameters(), slopes, strict=True):
        large = slope.abs() > 1e-5
        torch.testing.assert_close(b[large], (a - 2e-2 * slope.sign())[large], rtol=0, atol=1e-4)
