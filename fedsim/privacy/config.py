"""The `privacy:` section of a run's configuration; imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.schema import Config

SMALLEST_NOISE = 1e-4
"""A noise multiplier below this counts as none: its epsilon is beyond a million."""


class NoiseConfig(Config):
    """How much noise: given itself, or by the epsilon that it has to reach at the end of the run."""

    noise_multiplier: float | None = Field(None, ge=0, le=1e6)
    """z, the noise's standard deviation over the clipping norm; 0 adds none, and protects nothing."""
    target_epsilon: float | None = Field(None, gt=0, le=1e6)
    """Epsilon of the whole run, from which noise_multiplier is computed; the run's config.yaml holds the outcome."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The delta of the guarantee; far below one over the number of units that are protected."""

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
        """The noise multiplier, once it is known."""
        assert self.noise_multiplier is not None, "calibration comes first"
        return self.noise_multiplier


class ClientPrivacyConfig(NoiseConfig):
    """Central privacy of clients (DP-FedAvg, arXiv:1710.06963): clipped updates, and noise on their sum."""

    clip_norm: float = Field(1.0, gt=0)
    """S, the largest L2 norm of a client's update; of adaptive clipping, the first."""
    clipping: Literal["fixed", "adaptive"] = "fixed"
    """adaptive follows a quantile of the clients' norms (arXiv:1905.03871)."""
    target_quantile: float = Field(0.5, gt=0, lt=1)
    """gamma, the share of clients that adaptive clipping is to leave unclipped."""
    clip_lr: float = Field(0.2, gt=0)
    """eta_C, the step of adaptive clipping."""
    quantile_noise: float | None = Field(None, gt=0)
    """sigma_b, the standard deviation of the noise on the number of unclipped clients; a twentieth of the cohort by
    default. It has to be above half of noise_multiplier, of which it takes a share."""
    sampling: Literal["poisson", "fixed"] = "poisson"
    """poisson: each client joins a round by a coin of its own; fixed: cohorts have one size, so that another client
    takes the place of one that leaves, and epsilon is stated for that. It profits from either as long as cohorts stay
    secret."""


class ExamplePrivacyConfig(NoiseConfig):
    """Privacy of single examples (DP-SGD, arXiv:1607.00133): clipped gradients, and noise on their sum, in clients."""

    max_grad_norm: float = Field(1.0, gt=0)
    """C, the largest L2 norm of the gradient of one example."""


class PrivacyConfig(Config):
    """What is protected, nothing by default, and where the randomness for it comes from."""

    noise: Literal["seeded", "secure"] = "seeded"
    """seeded: noise and samples come from the run's seed, so that it repeats; secure: from the operating system, so
    that nobody can undo it, and it does not."""

    given_up: bool = False
    """Whether a run may end what the run that it starts from (`start`) promises."""
    client: ClientPrivacyConfig | None = None
    """All that one client has, from those who see the global models; the server is trusted."""
    example: ExamplePrivacyConfig | None = None
    """One example of one client, from everybody else, the server included."""
