"""Learning rates over rounds: each is a rate times a factor that the number of the round alone decides.

t = 1, 2, ... counts rounds, as torch.optim.lr_scheduler counts epochs from 0:
    constant     1
    steps        factor ^ (how many of `at` are rounds before t)          MultiStepLR
    cosine       end + (1 - end) (1 + cos(pi (t - 1) / T)) / 2            CosineAnnealingLR
    exponential  decay ^ (t - 1)                                          ExponentialLR
and in the first `warmup` rounds t / warmup times that.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fedsim.errors import FedsimError, nearest
from fedsim.schema import Config


class _Shape(Config):
    """What all schedules have."""

    warmup: int = Field(0, ge=0)
    """Rounds in which the rate rises in equal steps from 0."""

    def factor(self, server_round: int) -> float:
        """Return what multiplies the rate in a round, from 1; 1 outside of rounds."""
        if server_round < 1:
            return 1.0
        rising = min(1.0, server_round / self.warmup) if self.warmup else 1.0
        return rising * self._shape(server_round)

    def _shape(self, server_round: int) -> float:
        """Return the factor without a warm-up."""
        return 1.0


class Constant(_Shape):
    """The rate stays, but for a warm-up."""

    name: Literal["constant"] = "constant"


class Steps(_Shape):
    """The rate is multiplied after given rounds."""

    name: Literal["steps"] = "steps"
    at: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The rounds."""
    multiply: float = Field(0.1, gt=0)
    """By how much."""

    @field_validator("at", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    def _shape(self, server_round: int) -> float:
        return self.multiply ** sum(server_round > one for one in self.at)


class Cosine(_Shape):
    """The rate falls along half a cosine, and stays at its end."""

    name: Literal["cosine"] = "cosine"
    end: float = Field(0.0, ge=0, lt=1)
    """What is left at the end, as a share of the rate."""
    rounds: int | None = Field(None, ge=1)
    """Rounds until then; by default those of the run, also where it is made longer later."""

    def _shape(self, server_round: int) -> float:
        assert self.rounds is not None  # a run's configuration has set it
        done = min(server_round - 1, self.rounds) / self.rounds
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * done)) / 2


class ExponentialDecay(_Shape):
    """The rate is multiplied after every round."""

    name: Literal["exponential"] = "exponential"
    decay: float = Field(0.99, gt=0, le=1)
    """By how much."""

    def _shape(self, server_round: int) -> float:
        return float(self.decay ** (server_round - 1))


AnySchedule = Constant | Steps | Cosine | ExponentialDecay
Schedule = Annotated[AnySchedule, Field(discriminator="name")]

SCHEDULES = ("constant", "steps", "cosine", "exponential")


def named(value: Any) -> Any:
    """Read a bare name as that schedule's defaults, and options without a name as the constant's."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict):
        value = {"name": SCHEDULES[0]} | value
        if value["name"] not in SCHEDULES:
            raise ValueError(f"no schedule {value['name']!r}; {nearest(str(value['name']), SCHEDULES)}")
    return value


def fitted(schedule: AnySchedule, rounds: int | None) -> AnySchedule:
    """Return a schedule that ends with the run, unless it says when it ends."""
    if isinstance(schedule, Cosine) and schedule.rounds is None:
        return schedule.model_copy(update={"rounds": rounds})
    return schedule


class ServerConfig(Config):
    """What the server makes of a round's aggregate, whatever the method."""

    lr: float = Field(1.0, gt=0)
    """Step along the aggregated change, w + lr (aggregate - w), of parameters; 1 takes the aggregate as it is."""
    schedule: Schedule = Constant()
    """How that step changes over the rounds."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named(value)

    def lr_at(self, server_round: int) -> float:
        """Return the step of a round."""
        return self.lr * self.schedule.factor(server_round)


def require_server_steps(server: ServerConfig, method: str) -> None:
    """Refuse a server step for a method whose server takes steps of its own.

    Raises
    ------
    FedsimError
        If one is asked for.
    """
    if server != ServerConfig():
        raise FedsimError(f"server.lr: the server of {method} takes steps of its own; leave server.* out")
