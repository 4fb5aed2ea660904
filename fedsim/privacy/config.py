"""The `privacy:` section of a run's configuration; imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.schema import Config


class NoiseConfig(Config):
    """How much noise: given itself, or by the epsilon that it has to reach at the end of the run."""

    noise_multiplier: float | None = Field(None, ge=0)
    """z, the noise's standard deviation over the clipping norm; 0 adds none, and protects nothing."""
    target_epsilon: float | None = Field(None, gt=0)
    """Epsilon of the whole run, from which noise_multiplier is computed; the run's config.yaml holds the outcome."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The delta of the guarantee; far below one over the number of units that are protected."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("needs noise_multiplier or target_epsilon, and not both")
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
    """poisson: each client joins a round by a coin of its own, which epsilon profits from; fixed: cohorts have one
    size, and epsilon is stated as if all clients joined all rounds."""


class ExamplePrivacyConfig(NoiseConfig):
    """Privacy of single examples (DP-SGD, arXiv:1607.00133): clipped gradients, and noise on their sum, in clients."""

    max_grad_norm: float = Field(1.0, gt=0)
    """C, the largest L2 norm of the gradient of one example."""


class PrivacyConfig(Config):
    """What is protected; nothing by default."""

    client: ClientPrivacyConfig | None = None
    """All that one client has, from those who see the global models; the server is trusted."""
    example: ExamplePrivacyConfig | None = None
    """One example of one client, from everybody else, the server included."""
