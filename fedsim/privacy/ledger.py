"""The ledger: what leaves the clients of a run, what protects it, and how often it was released; imports no torch.

On disk it is `privacy.json`, and `privacy.jsonl` with a line for each round that has begun since that was written: a
round is in there before any client is asked for anything, so that a run that is killed has shown no more than it says.

A model that is derived from another one, by unlearning it say, has a ledger of its own: `Ledger.then`.
"""

from __future__ import annotations

import hashlib
import json
import os
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

FILE, _JOURNAL = "privacy.json", "privacy.jsonl"

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
    `query.QUERY/NAME` all that answers to a query hold; `server/NAME` is what the server measures itself."""
    mechanism: Literal["gaussian", "laplace", "none"] = "none"
    unit: Unit | None = None
    """Whom the mechanism protects; None without one."""
    adjacency: Literal["replaced", "added or removed", "zeroed out"] = "added or removed"
    """What may happen to one unit between two data sets that are to look alike; zeroed out: it is drawn as before, and
    adds nothing."""
    against: Literal["server", "readers"] = "server"
    """server: noise is added by the client, so it holds against everybody; readers: by the server, which is trusted."""
    noise: float = Field(0.0, ge=0)
    """Gaussian: standard deviation over L2 sensitivity; Laplace: scale over L1 sensitivity; 0 protects nothing."""
    delta: float = Field(0.0, ge=0, lt=1)
    """At which epsilon is to be stated: above 0 for Gaussian noise, 0 for Laplace noise."""
    sampling_rate: _Rate | tuple[_Rate, ...] = 1.0
    """Probability that a unit is in one release; one number, or one per client. It amplifies only as long as nobody
    sees who was drawn; else it is to be declared as 1."""
    sampling: Literal["poisson", "fixed"] = "poisson"
    """How units are drawn: poisson, each by a coin of its own; fixed, so many without replacement, where `noise` is for
    one replaced, by which it protects one added or removed too."""
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
        if self.sampling == "fixed" and self.adjacency != "replaced":
            raise ValueError("samples of one size go with one unit replaced: another takes the place of one that left")
        return self

    def matches(self, item: str) -> bool:
        """Return whether an item of a reply, such as `metrics/loss`, is part of this release."""
        return any(fnmatchcase(item, pattern) for pattern in self.covers)


class Spent(BaseModel):
    """So many equal releases: `count` times a mechanism of this noise at this sampling rate."""

    model_config = ConfigDict(frozen=True)

    sampling: Literal["poisson", "fixed"] = "poisson"

    mechanism: Literal["gaussian", "laplace"]
    noise: float
    sampling_rate: float
    count: int


class Ledger(BaseModel):
    """All releases of a run so far, or of a model derived from one."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    before: tuple[Ledger, ...] = ()
    """Of a derived model: the ledgers of what it comes from, oldest first."""

    noise: Literal["seeded", "secure"] = "seeded"
    """Where the noise comes from, see `fedsim.privacy.address`; seeded, a round run again is the same release."""
    recipe: str = ""
    """Tells recipes apart whose noise differs."""
    releases: tuple[Release, ...]
    """As declared before the first round."""
    rounds: int = Field(0, ge=0)
    """Rounds of the server."""
    took_part: list[_Counts]
    """Per client, the rounds that it was drawn for: one that failed then counts as if it had answered."""

    @property
    def parts(self) -> tuple[Ledger, ...]:
        """What adds up: what this comes from, oldest first, and what was released since."""
        return (*self.before, self.model_copy(update={"before": ()}))

    def then(self, *since: Ledger) -> Ledger:
        """Return the ledger of a model derived from this one's with these releases; with none it is this one.

        A release of the model without a mechanism makes epsilon infinite from there on, see `unprotected`.
        """
        *earlier, last = (part for ledger in (self, *since) for part in ledger.parts)
        return last.model_copy(update={"before": tuple(earlier)})

    def covers_round(self, server_round: int) -> bool:
        """Return whether a round, if it is run now, has been released before, to the bit."""
        return self.noise == "seeded" and server_round <= self.rounds

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
        if not count:
            return None
        return Spent(
            mechanism=release.mechanism, noise=release.noise, sampling_rate=rate, count=count, sampling=release.sampling
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

    def save(self, run_folder: Path, name: str = FILE) -> None:
        """Write `privacy.json` atomically; what the journal holds is in it."""
        write_atomically(run_folder / name, seal(self.model_dump_json(indent=1)))
        (run_folder / _JOURNAL).unlink(missing_ok=True)

    def journal(self, run_folder: Path, cohort: Sequence[int]) -> None:
        """Put the newest round, and who was drawn for it, into the journal: written when this returns."""
        line = _CohortLine.of(self.rounds, cohort).model_dump_json() + "\n"
        with (run_folder / _JOURNAL).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()  # survives the process
            if any(release.mechanism != "none" for release in self.releases):
                os.fsync(file.fileno())  # and the machine

    @classmethod
    def read(cls, run_folder: Path) -> Ledger:
        """Return the ledger of a run.

        Raises
        ------
        FedsimError
            If the run has none, or it is damaged.
        """
        file = run_folder / FILE
        try:
            ledger = cls.model_validate_json(unseal(file.read_bytes()))
        except OSError as error:
            raise FedsimError(f"{file}: cannot be read ({error.strerror}); run it anew to have its ledger") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its text"
            raise FedsimError(f"{file}: malformed ({where}); restore that file or give another run") from None
        except Damaged as error:
            raise FedsimError(f"{file}: {error}; restore that file or give another run") from None
        ledger._add_journal(run_folder / _JOURNAL)
        return ledger

    def _add_journal(self, file: Path) -> None:
        if not file.exists():
            return
        # What comes after the last line break was being written when the process died, and nothing was asked for yet.
        for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
            try:
                line = _CohortLine.model_validate_json(text)
                if line != _CohortLine.of(line.rounds, line.cohort):
                    raise Damaged
                if line.rounds > self.rounds:  # else it is in privacy.json, and the process died before it removed this
                    self.add_round(line.cohort)
                    self.rounds = line.rounds
            except (ValidationError, IndexError, Damaged):
                raise FedsimError(
                    f"{file}: line {number} is malformed; restore that file or give another run"
                ) from None


class _CohortLine(BaseModel):
    """A round in the journal."""

    rounds: int = Field(ge=1)
    """Rounds of the ledger with this one."""
    cohort: list[_Counts]
    sha256: str
    """Of both, in JSON."""

    @classmethod
    def of(cls, rounds: int, cohort: Sequence[int]) -> _CohortLine:
        told = json.dumps([rounds, list(cohort)])
        return cls(rounds=rounds, cohort=list(cohort), sha256=hashlib.sha256(told.encode()).hexdigest())


def exists(run_folder: Path) -> bool:
    """Return whether a run has a ledger."""
    return (run_folder / FILE).is_file()


def unprotected(what: str, clients: int) -> Ledger:
    """Return a release of a model that was made from the data of all clients without noise."""
    release = Release(
        what=what, covers=("model",), note="made from samples without noise: epsilon is infinite from here"
    )
    return Ledger(releases=(release,), rounds=1, took_part=[1] * clients)


def without(item: str, release: Release) -> Release:
    """Return a release that does not cover an item: for a method that declares it otherwise."""
    return release.model_copy(update={"covers": tuple(pattern for pattern in release.covers if pattern != item)})


def _of(value: float | tuple[float, ...], client: int) -> float:
    return value[client] if isinstance(value, tuple) else value
