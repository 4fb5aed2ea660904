"""A small variational autoencoder of a model's features, for methods that ask how unusual a feature is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.randomness import torch_draws
from unlearning.parts.steps import noise


class Reconstruction(NamedTuple):
    """The output of a VAE for features (B, dim)."""

    features: Tensor
    """(B, dim)."""
    mean: Tensor
    """(B, latent) of the posterior."""
    log_variance: Tensor
    """(B, latent) of the posterior."""


class Vae(nn.Module):
    """Gaussian encoder dim-128-32-latent and the mirrored decoder, ReLU between.

    Parameters
    ----------
    dim
        number of features
    latent
        number of latent variables
    sigmoid
        end the decoder in a sigmoid, as LAF does; without it, any feature value is possible
    """

    def __init__(self, dim: int, latent: int, *, sigmoid: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.mean = nn.Linear(32, latent)
        self.log_variance = nn.Linear(32, latent)
        layers = [nn.Linear(latent, 32), nn.ReLU(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, dim)]
        self.decoder = nn.Sequential(*layers, *([nn.Sigmoid()] if sigmoid else []))

    def forward(self, e: Tensor, rng: np.random.Generator) -> Reconstruction:
        """Return the reconstruction of features (B, dim) from z = mean + exp(log_variance / 2) epsilon."""
        hidden = self.encoder(e)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.exp(log_variance / 2) * noise(rng, mean)
        return Reconstruction(self.decoder(z), mean, log_variance)


def kl_to_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) summed over the latent variables, (B,); >= 0."""
    return -0.5 * (log_variance + 1 - mean.square() - log_variance.exp()).sum(1)


def squared_error(vae: Vae, e: Tensor, rng: np.random.Generator) -> Tensor:
    """Return m = ||v(e) - e||^2 of features (B, dim), shape (B,)."""
    made: Reconstruction = vae(e, rng)
    return (made.features - e).square().sum(1)


def evidence_loss(vae: Vae, e: Tensor, kl_weight: float, rng: np.random.Generator) -> Tensor:
    """Return mean_i ||v(e_i) - e_i||^2 + kl_weight mean_i KL_i, shape ()."""
    made: Reconstruction = vae(e, rng)
    error = (made.features - e).square().sum(1)
    return (error + kl_weight * kl_to_standard(made.mean, made.log_variance)).mean()


def new_vae(like: Tensor, latent: int, *, sigmoid: bool, rng: np.random.Generator) -> Vae:
    """Return an untrained VAE for features (N, dim), on their device and with their dtype; `rng` draws its weights."""
    seed = int(rng.integers(2**63 - 1))
    with torch_draws(seed), torch.device("cpu"):
        return Vae(like.shape[1], latent, sigmoid=sigmoid).to(like)
