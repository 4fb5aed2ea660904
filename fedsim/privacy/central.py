"""Client-level differential privacy with a trusted server: DP-FedAvg (arXiv:1710.06963).

Client k:  Delta_k = w_k - w_t,   sent: Delta_k * min(1, S / ||Delta_k||_2)   over all tensors at once
Server:    w_{t+1} = w_t + (sum_k Delta_k + N(0, (z_Delta S)^2 I)) / (q C)

All clients have the same weight. The denominator is the expected cohort q C and does not change, so one client moves
the sum by at most S, whichever other clients answer. Fixed clipping: z_Delta = z.

Adaptive clipping (arXiv:1905.03871) makes S follow the quantile gamma of the norms. Clients also send b_k - 1/2, where
b_k = 1 if ||Delta_k|| <= S, that is, if the update was not clipped, and 0 otherwise:

    S <- S exp(-eta_C (b - gamma)),   b = (sum_k (b_k - 1/2) + N(0, sigma_b^2)) / (q C) + 1/2

Both releases together have the noise multiplier z if z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.federated.types import Update, per_client
from fedsim.flower.records import Tensors
from fedsim.privacy.address import Secrets, digest
from fedsim.privacy.config import ClientPrivacyConfig
from fedsim.privacy.mechanisms import clip_factors, gaussian_like

UNCLIPPED = "privacy.unclipped"
"""The name of the item b_k - 1/2 in a client's reply."""


def clipped_updates(update: Update, start: Tensors, clip_norm: float, *, adaptive: bool) -> Update:
    """Return what clients send instead of their models: clipped differences to `start`, each with weight 1.

    Raises
    ------
    ValueError
        If the clients send other tensors than they received: their sensitivity is unknown.
    """
    if update.sent.keys() != start.keys():
        odd = ", ".join(sorted(update.sent.keys() ^ start.keys()))
        raise ValueError(f"client-level privacy covers the tensors of the global model only, not {odd}")
    deltas = {name: value - start[name] for name, value in update.sent.items()}
    norms = joint_norms(deltas)
    factors = clip_factors(norms, clip_norm)
    sent = {name: value * per_client(factors.to(value.dtype), value) for name, value in deltas.items()}
    if adaptive:
        sent[UNCLIPPED] = (norms <= clip_norm).float() - 0.5
    return update._replace(sent=sent, weights=torch.ones_like(update.weights))


def joint_norms(tensors: Tensors) -> Tensor:
    """Return the L2 norm over all tensors of each client, (clients,) float64, from stacked tensors (clients, ...)."""
    norms = [
        torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1, dtype=torch.float64)
        for value in tensors.values()
    ]
    joint: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return joint


class CentralPrivacy:
    """The server half: sums the clients' updates, adds noise, and adapts the clipping norm if configured."""

    def __init__(self, config: ClientPrivacyConfig, expected_cohort: float, secrets: Secrets) -> None:
        self.config, self.expected_cohort, self.secrets = config, expected_cohort, secrets
        self.clip_norm = config.clip_norm
        """S, the clipping norm of this round."""
        self.sigma_b = config.quantile_noise or expected_cohort / 20
        self.noise_multiplier = config.noise
        """z_Delta, the noise multiplier of the sum of updates alone."""
        if self.adaptive and config.noise:
            if 2 * self.sigma_b <= config.noise:
                raise FedsimError(
                    f"privacy.client.quantile_noise: must be above half of noise_multiplier {config.noise:g}, got "
                    f"{self.sigma_b:g}; raise it, or use clipping: fixed"
                )
            self.noise_multiplier = (config.noise**-2 - (2 * self.sigma_b) ** -2) ** -0.5

    @property
    def adaptive(self) -> bool:
        """Whether the clipping norm changes during the run."""
        return self.config.clipping == "adaptive"

    def aggregate(self, current: Tensors, updates: Iterator[tuple[Tensors, float]], server_round: int) -> Tensors:
        """Return the next global tensors.

        `updates` holds, for each chunk, the mean of the clipped updates and the number of clients; it may be empty. The
        sum is in float64, in the given order.
        """
        sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in current.items()}
        unclipped = torch.zeros((), dtype=torch.float64)
        for tensors, clients in updates:
            for name, total in sums.items():
                total.add_(tensors[name], alpha=clients)
            if self.adaptive:
                unclipped += tensors[UNCLIPPED].double().cpu() * clients
        std = self.noise_multiplier * self.clip_norm
        start = digest(current, self.clip_norm)
        noise = self.secrets.noise("client-level noise", server_round, start)
        moved = {
            name: current[name] + (total + gaussian_like(total, std, noise)) / self.expected_cohort
            for name, total in sums.items()
        }
        if self.adaptive:
            self.clip_norm *= math.exp(
                -self.config.clip_lr * (self._share(unclipped, server_round, start) - self._gamma)
            )
        return moved

    @property
    def _gamma(self) -> float:
        return self.config.target_quantile

    def _share(self, unclipped: Tensor, server_round: int, start: int) -> float:
        """Return b, the noised share of clients whose updates were not clipped."""
        std = self.sigma_b if self.config.noise else 0.0
        noise = self.secrets.noise("quantile noise", server_round, start)
        return float(unclipped + gaussian_like(unclipped, std, noise)) / self.expected_cohort + 0.5
