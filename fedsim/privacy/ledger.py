"""The ledger: what leaves the clients of a run, what protects it, and how often it was released; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedsim.atomic import write_atomically
from fedsim.errors import FedsimError
from fedsim.sealed import Damaged, seal, unseal

Unit = Literal["response", "example", "client"]
"""Whose presence is hidden: one response (label), one sample with its label, or all that one client has."""

_FILE = "privacy.json"

_Counts = Annotated[int, Field(ge=0)]
_Rate = Annotated[float, Field(gt=0, le=1)]


class Release(BaseModel):
    """One kind of private information that others get to see, and the mechanism that protects it, if any.

    A client half declares its own with `Client.releases`. What is computed from a release alone, such as a model that
    is trained on noisy labels, is no release of its own: it is named in `covers`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    what: str
    """In a few words."""
    covers: tuple[str, ...]
    """Items of clients' replies, as `fnmatch` patterns: `model` is every array that the client was sent itself,
    `arrays/NAME` any other, `metrics/NAME` a metric of training, `evaluation/NAME` one of evaluation,
    `query.QUERY/NAME` all that answers to a query hold."""
    mechanism: Literal["gaussian", "laplace", "none"] = "none"
    unit: Unit | None = None
    """Whom the mechanism protects; None without one."""
    adjacency: Literal["replaced", "added or removed"] = "added or removed"
    """What may happen to one unit between two data sets that are to look alike."""
    against: Literal["server", "readers"] = "server"
    """server: noise is added by the client, so it holds against everybody; readers: by the server, which is trusted."""
    noise: float = Field(0.0, ge=0)
    """Gaussian: standard deviation over L2 sensitivity; Laplace: scale over L1 sensitivity; 0 protects nothing."""
    delta: float = Field(0.0, ge=0, lt=1)
    """At which epsilon is to be stated: above 0 for Gaussian noise, 0 for Laplace noise."""
    sampling_rate: _Rate | tuple[_Rate, ...] = 1.0
    """Probability that a unit is in one release, drawn independently (Poisson); one number, or one per client.
    Any other way of drawing is to be declared as 1."""
    times: _Counts | tuple[_Counts, ...] = 1
    """Releases each time, one number or one per client."""
    when: Literal["once", "taking part", "every round"] = "taking part"
    """once: when a client first takes part, and never again; taking part: in each round that a client takes part in;
    every round: in each round of the server, whoever was drawn."""
    note: str = ""
    """What is assumed, or why there is no protection; one sentence."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.mechanism == "none") != (self.unit is None):
            raise ValueError("a mechanism protects a unit, and only a mechanism does")
        if (self.mechanism == "gaussian") != (self.delta > 0):
            raise ValueError("Gaussian noise needs a delta above 0, and only Gaussian noise has one")
        return self

    def matches(self, item: str) -> bool:
        """Return whether an item of a reply, such as `metrics/loss`, is part of this release."""
        return any(fnmatchcase(item, pattern) for pattern in self.covers)


class Spent(BaseModel):
    """So many equal releases: `count` times a mechanism of this noise at this sampling rate."""

    model_config = ConfigDict(frozen=True)

    mechanism: Literal["gaussian", "laplace"]
    noise: float
    sampling_rate: float
    count: int


class Ledger(BaseModel):
    """All releases of a run so far; the file `privacy.json` of its folder is one of these."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    releases: tuple[Release, ...]
    """As declared before the first round."""
    rounds: int = Field(0, ge=0)
    """Rounds of the server."""
    took_part: list[_Counts]
    """Per client, the rounds that it was drawn for: one that failed then counts as if it had answered."""

    def add_round(self, cohort: Iterable[int]) -> None:
        """Count a round and who was drawn for it."""
        self.rounds += 1
        for client in cohort:
            self.took_part[client] += 1

    def spent(self, release: Release, client: int) -> Spent | None:
        """Return how often this release has shown something of `client`; None if never, or without a mechanism."""
        if release.mechanism == "none":
            return None
        took_part = self.took_part[client]
        each = {"once": min(took_part, 1), "taking part": took_part, "every round": self.rounds}[release.when]
        times, rate = _of(release.times, client), _of(release.sampling_rate, client)
        count = int(each * times)
        return (
            Spent(mechanism=release.mechanism, noise=release.noise, sampling_rate=rate, count=count) if count else None
        )

    def protecting(self, unit: Unit) -> list[Release]:
        """Return the releases with a mechanism for this unit."""
        return [release for release in self.releases if release.unit == unit]

    def uncovered(self, unit: Unit) -> list[Release]:
        """Return the releases without a mechanism that none with one, for this unit, takes in."""
        protecting = self.protecting(unit)
        return [
            release
            for release in self.releases
            if release.mechanism == "none"
            and not all(any(p.matches(item) for p in protecting) for item in release.covers)
        ]

    def save(self, run_folder: Path) -> None:
        """Write `privacy.json` atomically."""
        write_atomically(run_folder / _FILE, seal(self.model_dump_json(indent=1)))

    @classmethod
    def read(cls, run_folder: Path) -> Ledger:
        """Return the ledger of a run.

        Raises
        ------
        FedsimError
            If the run has none, or it is damaged.
        """
        file = run_folder / _FILE
        try:
            return cls.model_validate_json(unseal(file.read_bytes()))
        except OSError as error:
            raise FedsimError(f"{file}: cannot be read ({error.strerror}); run it anew to have its ledger") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its text"
            raise FedsimError(f"{file}: malformed ({where}); restore that file or give another run") from None
        except Damaged as error:
            raise FedsimError(f"{file}: {error}; restore that file or give another run") from None


def undeclared(items: Iterable[str], releases: Sequence[Release]) -> list[str]:
    """Return the items of replies that no release covers, sorted."""
    return sorted({item for item in items if not any(release.matches(item) for release in releases)})


def _of(value: float | tuple[float, ...], client: int) -> float:
    return value[client] if isinstance(value, tuple) else value
