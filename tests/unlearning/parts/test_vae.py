"""The small VAE: its size, its noise, its terms and their gradients."""

import numpy as np
import pytest
import torch

from tests.unlearning.digits_views import random
from unlearning.parts.vae import Vae, kl_to_standard, new_vae, squared_error


def test_gradients_flow_through_the_fixed_vae_and_the_target_at_once():
    """The derivative of ||v(e) - e||^2 is 2 (J_v - 1)^T (v(e) - e): neither half is detached."""
    h, e = new_vae(random(1, 5), 3, sigmoid=True, rng=np.random.default_rng(0)), random(1, 5)

    def value(e):
        return h(e, np.random.default_rng(1)).features

    jacobian = torch.autograd.functional.jacobian(value, e)[0, :, 0, :]
    expected = 2 * (jacobian - torch.eye(5)).T @ (value(e) - e)[0]
    probe = e.clone().requires_grad_()
    slope = torch.autograd.grad(squared_error(h, probe, np.random.default_rng(1)).sum(), probe)[0]
    torch.testing.assert_close(slope[0], expected, rtol=1e-9, atol=1e-12)


def test_the_vae_decodes_the_mean_plus_the_standard_deviation_times_the_noise():
    vae, e = new_vae(random(1, 5), 3, sigmoid=True, rng=np.random.default_rng(0)), random(4, 5)
    made = vae(e, np.random.default_rng(1))
    epsilon = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 3)))
    expected = vae.decoder(made.mean + made.log_variance.exp().sqrt() * epsilon)
    torch.testing.assert_close(made.features, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("latent", "size"), [(8, 75_088), (16, 75_872)])
def test_the_vae_has_the_papers_size(latent, size):
    vae = Vae(256, latent, sigmoid=True)
    assert sum(parameter.numel() for parameter in vae.parameters()) == size
    made = vae(torch.randn(4, 256), np.random.default_rng(0))
    assert made.features.shape == (4, 256)
    assert made.mean.shape == made.log_variance.shape == (4, latent)
    assert ((made.features > 0) & (made.features < 1)).all()


def test_the_kl_term_is_that_of_torch_and_zero_only_at_the_standard_normal():
    mean, log_variance = random(50, 8), random(50, 8, seed=1)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(kl_to_standard(mean, log_variance), expected, rtol=1e-9, atol=1e-12)
    assert not kl_to_standard(torch.zeros(3, 8), torch.zeros(3, 8)).any()
    assert (kl_to_standard(mean, log_variance) > 0).all()
