"""Client-level differential privacy with a trusted server: DP-FedAvg (arXiv:1710.06963).

Client k:  Delta_k = w_k - w_t,   sent: Delta_k * min(1, S / ||Delta_k||_2)   over all tensors at once
Server:    w_{t+1} = w_t + (sum_k Delta_k + N(0, (z_Delta S)^2 I)) / (q C)

The weights are uniform and the denominator, the expected cohort q C, is fixed, so one client moves the sum by at most
S, whoever else answers. Fixed clipping: z_Delta = z. Adaptive clipping (arXiv:1905.03871) also sends whether a client's
update was left as it is, b_k = 1 if ||Delta_k|| <= S, as b_k - 1/2, and lets S follow the quantile gamma:

    S <- S exp(-eta_C (b - gamma)),   b = (sum_k (b_k - 1/2) + N(0, sigma_b^2)) / (q C) + 1/2

Both releases together have the noise multiplier z where z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2).
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
"""The name under which b_k - 1/2 is sent."""


def clipped_updates(update: Update, start: Tensors, clip_norm: float, *, adaptive: bool) -> Update:
    """Return what clients send instead of their models: clipped differences to `start`, all of weight 1.

    Raises
    ------
    ValueError
        If they would send anything but the tensors that they were sent: its sensitivity is not known.
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
    """Return the L2 norm over all of a client's tensors, (clients,) float64, of stacked tensors (clients, ...)."""
    norms = [
        torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1, dtype=torch.float64)
        for value in tensors.values()
    ]
    joint: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return joint


class CentralPrivacy:
    """The server's half: sums what clients send, adds noise, and adapts the clipping norm if asked to."""

    def __init__(self, config: ClientPrivacyConfig, expected_cohort: float, secrets: Secrets) -> None:
        self.config, self.expected_cohort, self.secrets = config, expected_cohort, secrets
        self.clip_norm = config.clip_norm
        """S of this round."""
        self.sigma_b = config.quantile_noise or expected_cohort / 20
        self.noise_multiplier = config.noise
        """z_Delta, of the sum of updates alone."""
        if self.adaptive and config.noise:
            if 2 * self.sigma_b <= config.noise:
                raise FedsimError(
                    f"privacy.client.quantile_noise: must be above half of noise_multiplier {config.noise:g}, got "
                    f"{self.sigma_b:g}; raise it, or use clipping: fixed"
                )
            self.noise_multiplier = (config.noise**-2 - (2 * self.sigma_b) ** -2) ** -0.5

    @property
    def adaptive(self) -> bool:
        """Whether the clipping norm changes."""
        return self.config.clipping == "adaptive"

    def aggregate(self, current: Tensors, updates: Iterator[tuple[Tensors, float]], server_round: int) -> Tensors:
        """Return the next global tensors from (mean of clipped updates, number of clients) of each chunk, even of none.

        Summed in float64, in the order they come.
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
        """Return b."""
        std = self.sigma_b if self.config.noise else 0.0
        noise = self.secrets.noise("quantile noise", server_round, start)
        return float(unclipped + gaussian_like(unclipped, std, noise)) / self.expected_cohort + 0.5
