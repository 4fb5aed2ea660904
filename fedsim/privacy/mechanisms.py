"""Mechanisms: noise of a given size from an addressed generator, and the size that a guarantee needs.

By default the generators are seeded, see `fedsim.privacy.address`, so that runs repeat. Such a release is a simulation:
anyone who knows the seed can remove the noise. Also, floating-point noise is open to attacks on its low bits. So use
neither seeded nor secure noise to protect the data of real people.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.privacy.accountant import calibrate


def gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """Return tau, the least standard deviation per unit of L2 sensitivity for one (epsilon, delta)-DP release.

    tau is the smallest t with Phi(1/(2t) - epsilon t) - e^epsilon Phi(-1/(2t) - epsilon t) <= delta (Balle and Wang,
    arXiv:1805.06530). This is exact for every epsilon; the classical sqrt(2 ln(1.25/delta)) / epsilon is not.
    """
    return calibrate(epsilon, delta, [(1.0, 1)])


def laplace_scale(epsilon: float, l1_sensitivity: float) -> float:
    """Return the scale b of the Laplace noise that makes one release epsilon-DP; its variance is 2 b^2."""
    return l1_sensitivity / epsilon


def require_delta(key: str, delta: float, units: int, named: str) -> None:
    """Require a delta below 1 / `units`: a larger one allows a mechanism that shows one unit completely.

    Raises
    ------
    FedsimError
        If `delta` is not below 1 / `units`. The message names the option `key`, and calls the units `named`.
    """
    if delta * units >= 1:
        raise FedsimError(f"{key}: must be below one over the {units} {named} ({1 / units:.3g}), got {delta:g}")


def gaussian_like(value: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    """Return independent N(0, std^2) noise with a tensor's shape, dtype and device, drawn on the generator's device.

    Without a generator, the randomness comes from the operating system and the noise is computed on the CPU.
    """
    if generator is None:
        bits = torch.frombuffer(bytearray(os.urandom(8 * value.numel())), dtype=torch.int64) if value.numel() else None
        uniform = torch.zeros(0).double() if bits is None else ((bits & (2**53 - 1)).double() + 0.5) / 2**53
        drawn: Tensor = torch.special.ndtri(uniform).mul_(std).view(value.shape).to(value)
        return drawn
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=generator.device)
    return noise.mul_(std).to(value.device)


def clip_factors(norms: Tensor, bound: float) -> Tensor:
    """Return the factors, same shape as `norms`, that clip vectors with these L2 norms to at most `bound`.

    A vector of norm 0 has factor 1. An infinite norm has factor 0.
    """
    return (bound / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)
