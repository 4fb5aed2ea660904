"""Learning rate schedules: the rate of a round is the base rate times a factor, which depends on the round number only.

The round number t starts at 1, while torch.optim.lr_scheduler counts epochs from 0:
    constant     1
    steps        multiply ^ (number of rounds in `at` that are before t)  MultiStepLR
    cosine       end + (1 - end) (1 + cos(pi (t - 1) / T)) / 2            CosineAnnealingLR
    exponential  decay ^ (t - 1)                                          ExponentialLR
In the first `warmup` rounds, the factor is also multiplied by t / warmup.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fedsim.errors import FedsimError, nearest
from fedsim.schema import Config


class _Shape(Config):
    """Options of all schedules."""

    warmup: int = Field(0, ge=0)
    """Number of first rounds in which the rate rises linearly from 0."""

    def factor(self, server_round: int) -> float:
        """Return the factor of the rate in a round, counted from 1; it is 1 outside of rounds."""
        if server_round < 1:
            return 1.0
        rising = min(1.0, server_round / self.warmup) if self.warmup else 1.0
        return rising * self._shape(server_round)

    def _shape(self, server_round: int) -> float:
        """Return the factor without warm-up."""
        return 1.0


class Constant(_Shape):
    """The rate is constant after the warm-up."""

    name: Literal["constant"] = "constant"


class Steps(_Shape):
    """The rate is multiplied by a factor after given rounds."""

    name: Literal["steps"] = "steps"
    at: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Rounds after which the rate is multiplied."""
    multiply: float = Field(0.1, gt=0)
    """The factor."""

    @field_validator("at", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    def _shape(self, server_round: int) -> float:
        return self.multiply ** sum(server_round > one for one in self.at)


class Cosine(_Shape):
    """The rate falls along half a cosine period, then stays constant."""

    name: Literal["cosine"] = "cosine"
    end: float = Field(0.0, ge=0, lt=1)
    """The final rate, as a share of the rate."""
    rounds: int | None = Field(None, ge=1)
    """Number of rounds until the final rate; by default that of the run, even if the run is extended later."""

    def _shape(self, server_round: int) -> float:
        assert self.rounds is not None  # a run's configuration has set it
        done = min(server_round - 1, self.rounds) / self.rounds
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * done)) / 2


class ExponentialDecay(_Shape):
    """The rate is multiplied by a factor after every round."""

    name: Literal["exponential"] = "exponential"
    decay: float = Field(0.99, gt=0, le=1)
    """The factor."""

    def _shape(self, server_round: int) -> float:
        return float(self.decay ** (server_round - 1))


AnySchedule = Constant | Steps | Cosine | ExponentialDecay
Schedule = Annotated[AnySchedule, Field(discriminator="name")]

SCHEDULES = ("constant", "steps", "cosine", "exponential")


def named(value: Any) -> Any:
    """Convert a bare name to a schedule with default options; options without a name are those of `constant`."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict):
        value = {"name": SCHEDULES[0]} | value
        if value["name"] not in SCHEDULES:
            raise ValueError(f"no schedule {value['name']!r}; {nearest(str(value['name']), SCHEDULES)}")
    return value


def fitted(schedule: AnySchedule, rounds: int | None) -> AnySchedule:
    """Return the schedule, with the number of the run's rounds if it has none of its own."""
    if isinstance(schedule, Cosine) and schedule.rounds is None:
        return schedule.model_copy(update={"rounds": rounds})
    return schedule


class ServerConfig(Config):
    """The server's step after aggregation, for all methods."""

    lr: float = Field(1.0, gt=0)
    """Server learning rate: parameters become w + lr (aggregate - w); 1 uses the aggregate unchanged."""
    schedule: Schedule = Constant()
    """How the server learning rate changes over the rounds."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named(value)

    def lr_at(self, server_round: int) -> float:
        """Return the server learning rate of a round."""
        return self.lr * self.schedule.factor(server_round)


def require_server_steps(server: ServerConfig, method: str) -> None:
    """Require the default server options for a method whose server has its own step.

    Raises
    ------
    FedsimError
        If one of the options has another value.
    """
    if server != ServerConfig():
        raise FedsimError(f"server.lr: the server of {method} has its own step; leave server.* out")
