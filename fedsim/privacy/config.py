"""The `privacy:` section of a run's configuration; imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.schema import Config

SMALLEST_NOISE = 1e-4
"""A noise multiplier below this counts as 0: its epsilon is above a million."""


class NoiseConfig(Config):
    """The amount of noise: a noise multiplier, or the epsilon that the run has to reach at its end."""

    noise_multiplier: float | None = Field(None, ge=0, le=1e6)
    """z, the standard deviation of the noise divided by the clipping norm; 0 adds no noise, and protects nothing."""
    target_epsilon: float | None = Field(None, gt=0, le=1e6)
    """Epsilon of the whole run; noise_multiplier is computed from it, and stored in the run's config.yaml."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The delta of the guarantee; it should be far below one over the number of protected units."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("needs noise_multiplier or target_epsilon, and not both")
        if 0 < (self.noise_multiplier or 0) < SMALLEST_NOISE:
            raise ValueError(
                f"noise_multiplier {self.noise_multiplier:g} protects nothing; give 0 or from {SMALLEST_NOISE:g}"
            )
        return self

    @property
    def noise(self) -> float:
        """The noise multiplier, available after calibration."""
        assert self.noise_multiplier is not None, "calibration comes first"
        return self.noise_multiplier


class ClientPrivacyConfig(NoiseConfig):
    """Central client-level privacy (DP-FedAvg, arXiv:1710.06963): clipped updates, and noise on their sum."""

    clip_norm: float = Field(1.0, gt=0)
    """S, the largest L2 norm of a client's update; with adaptive clipping, its initial value."""
    clipping: Literal["fixed", "adaptive"] = "fixed"
    """adaptive follows a quantile of the clients' norms (arXiv:1905.03871)."""
    target_quantile: float = Field(0.5, gt=0, lt=1)
    """gamma, the share of clients that adaptive clipping should leave unclipped."""
    clip_lr: float = Field(0.2, gt=0)
    """eta_C, the step of adaptive clipping."""
    quantile_noise: float | None = Field(None, gt=0)
    """sigma_b, the standard deviation of the noise on the number of unclipped clients; a twentieth of the cohort by
    default. It must be above half of noise_multiplier, as it uses a part of the privacy budget."""
    sampling: Literal["poisson", "fixed"] = "poisson"
    """poisson: each client joins a round independently at random; fixed: all cohorts have one size, and epsilon is for
    replacing one client by another. Both amplify privacy only if cohorts stay secret."""


class ExamplePrivacyConfig(NoiseConfig):
    """Example-level privacy (DP-SGD, arXiv:1607.00133): clients clip the gradient of each example, and add noise."""

    max_grad_norm: float = Field(1.0, gt=0)
    """C, the largest L2 norm of the gradient of one example."""


class PrivacyConfig(Config):
    """Differential privacy, by default none: the protected unit, and the source of randomness."""

    noise: Literal["seeded", "secure"] = "seeded"
    """seeded: noise and sampling come from the run's seed, so the run repeats, and anyone with the seed can remove the
    noise; secure: they come from the operating system, and the run does not repeat."""

    given_up: bool = False
    """Allow a run to break the privacy promise of the run that it starts from (`start`)."""
    client: ClientPrivacyConfig | None = None
    """Protects all data of a client against readers of the global models; the server is trusted."""
    example: ExamplePrivacyConfig | None = None
    """Protects a single example of a client against everybody else, including the server."""
