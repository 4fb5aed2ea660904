"""Mechanisms: noise of a stated size, drawn from an addressed generator, and the size that a guarantee needs.

By default the generators are seeded, see `fedsim.privacy.address`, so that runs repeat: a simulation of a release,
which whoever knows the seed can undo. Nor is floating-point noise proof against attacks on its low bits. Neither may
guard real people's data.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.privacy.accountant import calibrate


def gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """Return tau: the least standard deviation, per unit of L2 sensitivity, of one (epsilon, delta)-DP release.

    tau is the smallest t with Phi(1/(2t) - epsilon t) - e^epsilon Phi(-1/(2t) - epsilon t) <= delta (Balle and Wang,
    arXiv:1805.06530); exact for every epsilon, which the classical sqrt(2 ln(1.25/delta)) / epsilon is not.
    """
    return calibrate(epsilon, delta, [(1.0, 1)])


def laplace_scale(epsilon: float, l1_sensitivity: float) -> float:
    """Return the scale b of the Laplace noise that makes one release epsilon-DP; its variance is 2 b^2."""
    return l1_sensitivity / epsilon


def require_delta(key: str, delta: float, units: int, named: str) -> None:
    """Refuse a delta at which one of so many units may be shown outright.

    Raises
    ------
    FedsimError
        If it is not below one over `units`.
    """
    if delta * units >= 1:
        raise FedsimError(f"{key}: must be below one over the {units} {named} ({1 / units:.3g}), got {delta:g}")


def gaussian_like(value: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    """Return independent N(0, std^2) of a tensor's shape, type and device, drawn on the generator's device.

    Without a generator they are made of the operating system's randomness, on the CPU.
    """
    if generator is None:
        bits = torch.frombuffer(bytearray(os.urandom(8 * value.numel())), dtype=torch.int64) if value.numel() else None
        uniform = torch.zeros(0).double() if bits is None else ((bits & (2**53 - 1)).double() + 0.5) / 2**53
        drawn: Tensor = torch.special.ndtri(uniform).mul_(std).view(value.shape).to(value)
        return drawn
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=generator.device)
    return noise.mul_(std).to(value.device)


def clip_factors(norms: Tensor, bound: float) -> Tensor:
    """Return what vectors of these L2 norms are to be multiplied by to have norms of at most `bound`; 0 is left as is.

    A norm that overflowed gives 0.
    """
    return (bound / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)
