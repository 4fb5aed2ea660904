"""LAF, label-agnostic forgetting: move features so that forgotten samples look unusual; no label is used.

h and h_f are VAEs of the original features e_D(x) on D and on D_f; m(x) = ‖v(e(x)) − e(x)‖², φ(m) = exp(m / (m + 1)),
d(x) = 1 − cos(e(x), e_D(x)). Each step, with batches b_r and b_f, takes one step of Adam on each of
    L_UE = Σ_{b_r} φ(m_h) − Σ_{b_f} φ(m_{h_f}),
    L_RA = Σ_{b_r} d − |b_r| log Σ_{b_f} exp(d / τ).
An epoch ends with the smaller set. The model stays in evaluation mode, and the classifier does not change.
"Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models" (arXiv:2404.00506).
Differs from the authors' code: e is the model's features, of any dimension and often >= 0 (theirs: a linear layer of
256). The VAEs use features that are computed once. The learning rates are for small sets.
"""

import copy
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import descend, required, spawn_rng
from unlearning.parts.vae import Vae, evidence_loss, new_vae, squared_error


class LafConfig(UnlearningConfig):
    """Options of LAF; the defaults are for a few thousand samples. Keep lr_align at 2 lr_unlearn or more.

    With half of these rates, a client remains known if nothing else distinguishes it.
    """

    epochs: int = Field(20, ge=0)
    """Passes over the smaller of the two sets; there is no other stopping rule."""
    min_steps: int = Field(300, ge=0)
    """Continue beyond these passes up to this many steps, because 20 passes over few batches hardly move the
    features."""
    batch_size: int = Field(32, ge=1)
    """Samples of each kind per step, and per step of the VAEs."""
    lr_unlearn: float = Field(4e-4, ge=0, json_schema_extra=searched(5e-5, 1e-3))
    """Learning rate of Adam on L_UE; 0 omits it. The authors' values are 1e-5 to 5e-5 for 60,000 samples."""
    lr_align: float = Field(1.2e-3, ge=0, json_schema_extra=searched(1e-4, 2e-3))
    """Learning rate of Adam on L_RA; 0 omits it. The authors' values are 4e-5 to 1e-4."""
    temperature: float = Field(20.0, gt=0, json_schema_extra=searched(2.0, 40.0))
    """τ; higher values push forgotten features less from their original position."""
    latent: int = Field(8, ge=1)
    """Latent variables of the VAEs; use 16 for colour images."""
    vae_epochs: int = Field(10, ge=0)
    """Passes over the features when a VAE is fitted."""
    vae_lr: float = Field(1e-3, ge=0)
    """Learning rate of Adam for the VAEs."""
    kl_weight: float = Field(0.025, ge=0)
    """Weight of the VAEs' KL term."""
    decoder: Literal["sigmoid", "linear"] = "sigmoid"
    """The last layer of the VAEs' decoders; linear reaches features outside (0, 1)."""


def saturate(m: Tensor) -> Tensor:
    """Return φ(m) = exp(m / (m + 1)), in [1, e), of squared errors m >= 0."""
    return torch.exp(m / (m + 1))


def unlearning_loss(m_retain: Tensor, m_forget: Tensor) -> Tensor:
    """Return L_UE from the squared errors (B_r,) of h and (B_f,) of h_f, shape ()."""
    return saturate(m_retain).sum() - saturate(m_forget).sum()


def alignment_loss(d_retain: Tensor, d_forget: Tensor, temperature: float) -> Tensor:
    """Return L_RA from the distances (B_r,) and (B_f,) to the original features, shape ()."""
    return d_retain.sum() - len(d_retain) * torch.logsumexp(d_forget / temperature, dim=0)


def distance(e: Tensor, original: Tensor) -> Tensor:
    """Return d = 1 - cos(e, original), in [0, 2], for features (B, dim), shape (B,)."""
    return 1 - F.cosine_similarity(e, original, dim=1)


def embed(features: nn.Module, view: View, batch_size: int = 256) -> Tensor:
    """Return the features (N, dim) of all samples, in order and without a graph."""
    with torch.no_grad():
        return torch.cat([features(x) for x, _ in view.batches(batch_size, None)])


def fit(e: Tensor, config: LafConfig, rng: np.random.Generator) -> Vae:
    """Return a VAE fitted to features (N, dim), with frozen weights."""
    vae = new_vae(e, config.latent, sigmoid=config.decoder == "sigmoid", rng=rng)
    optimizer = torch.optim.Adam(vae.parameters(), config.vae_lr)
    for _ in range(config.vae_epochs):
        batches = torch.split(torch.from_numpy(rng.permutation(len(e))).to(e.device), config.batch_size)
        descend((evidence_loss(vae, e[rows], config.kl_weight, rng) for rows in batches), optimizer)
    return vae.requires_grad_(False)


def num_epochs(size: int, config: LafConfig) -> int:
    """Return the number of passes over the smaller set, which has `size` samples; 0 if the options have no epochs."""
    return max(config.epochs, -(-config.min_steps // -(-size // config.batch_size))) if config.epochs else 0


def forget_features(
    model: Classifier, forget: View, retain: View, config: LafConfig, rng: np.random.Generator
) -> Classifier:
    """Move the features of the model, in place, and return it in evaluation mode.

    Raises
    ------
    FedsimError
        If its features have no weights.
    """
    if not any(True for _ in model.features.parameters()):
        raise FedsimError("--method laf: moves features, and those of this model have no weights; use neggrad")
    if not config.epochs or not len(forget) or not len(retain):
        return model.eval()
    others, vaes = spawn_rng(rng), spawn_rng(rng)
    features, original = model.eval().features, copy.deepcopy(model.features).requires_grad_(False)
    e_forget = embed(original, forget)
    h = fit(torch.cat([embed(original, retain), e_forget]), config, vaes)
    h_forget = fit(e_forget, config, vaes)
    unlearn_step = torch.optim.Adam(features.parameters(), config.lr_unlearn)
    align_step = torch.optim.Adam(features.parameters(), config.lr_align)

    for _ in range(num_epochs(min(len(forget), len(retain)), config)):
        pairs = zip(retain.batches(config.batch_size, rng), forget.batches(config.batch_size, others), strict=False)
        for (x, _), (x_f, _) in pairs:
            m, m_f = squared_error(h, features(x), vaes), squared_error(h_forget, features(x_f), vaes)
            descend([unlearning_loss(m, m_f)], unlearn_step)
            d, d_f = distance(features(x), original(x)), distance(features(x_f), original(x_f))
            descend([alignment_loss(d, d_f, config.temperature)], align_step)
    return model


@unlearning("laf", LafConfig, Needs(forget_labels=False, retain_labels=False), {"class", "samples", "clients"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: LafConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with its features moved."""
    return forget_features(model, forget, required(retain), config, rng)
