"""The privacy ledger: what leaves the clients of a run, what protects it, and how often it was released.

On disk the ledger is `privacy.json` and a journal, `privacy.jsonl`. The journal has one line for each round that began
after `privacy.json` was written. A round is written to the journal before any client receives a message. So a run that
is killed has released no more than its ledger says.

A model that is derived from another one, for example by unlearning, has a ledger of its own: see `Ledger.then`.
This module imports no torch.
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
"""The protected unit: one response (label), one example (a sample with its label), or all data of one client."""

FILE, _JOURNAL = "privacy.json", "privacy.jsonl"

_Counts = Annotated[int, Field(ge=0)]
_Rate = Annotated[float, Field(gt=0, le=1)]


class Release(BaseModel):
    """One kind of private information that others see, and the mechanism that protects it, if any.

    A client half declares its releases in `Client.releases`. A value that is computed from a release alone is no new
    release, for example a model that is trained on noisy labels. Name such a value in `covers`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    what: str
    """Description of the released information, in a few words."""
    covers: tuple[str, ...]
    """Items of the clients' replies, as `fnmatch` patterns.

    `model` is every array that the client received; `arrays/NAME` is any other array. `metrics/NAME` is a metric of
    training, and `evaluation/NAME` is a metric of evaluation. `query.QUERY/NAME` is an item of the answer to a query.
    `server/NAME` is a value that the server measures itself.
    """
    mechanism: Literal["gaussian", "laplace", "none"] = "none"
    unit: Unit | None = None
    """The unit that the mechanism protects; None without a mechanism."""
    adjacency: Literal["replaced", "added or removed", "zeroed out"] = "added or removed"
    """How two neighbouring data sets differ. zeroed out: the unit is drawn as before, but contributes nothing."""
    against: Literal["server", "readers"] = "server"
    """server: the client adds the noise, so the guarantee holds against everybody. readers: the server adds it, so the
    guarantee holds against readers of the model, and the server is trusted."""
    noise: float = Field(0.0, ge=0)
    """Gaussian: standard deviation / L2 sensitivity. Laplace: scale / L1 sensitivity. 0 protects nothing."""
    delta: float = Field(0.0, ge=0, lt=1)
    """The delta at which epsilon is stated: above 0 for Gaussian noise, 0 for Laplace noise."""
    sampling_rate: _Rate | tuple[_Rate, ...] = 1.0
    """Probability that a unit is in one release: one number, or one per client. Sampling amplifies privacy only while
    nobody sees which units were drawn. Otherwise declare 1."""
    sampling: Literal["poisson", "fixed"] = "poisson"
    """poisson: each unit is drawn independently. fixed: samples have one size and are drawn without replacement. For
    `fixed`, `noise` is for one replaced unit, which also protects one added or removed unit."""
    times: _Counts | tuple[_Counts, ...] = 1
    """Number of releases each time: one number, or one per client."""
    when: Literal["once", "taking part", "every round"] = "taking part"
    """once: when a client first takes part. taking part: in each round in which the client takes part. every round: in
    each round of the server, whichever clients were drawn."""
    note: str = ""
    """One sentence: what is assumed, or why there is no protection."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.mechanism == "none") != (self.unit is None):
            raise ValueError("a mechanism protects a unit, and only a mechanism does")
        if (self.mechanism == "gaussian") != (self.delta > 0):
            raise ValueError("Gaussian noise needs a delta above 0, and only Gaussian noise has one")
        if self.sampling == "fixed" and self.adjacency != "replaced":
            raise ValueError("sampling of a fixed size needs the adjacency 'replaced': one unit in place of another")
        return self

    def matches(self, item: str) -> bool:
        """Return whether an item of a reply, for example `metrics/loss`, is part of this release."""
        return any(fnmatchcase(item, pattern) for pattern in self.covers)


class Spent(BaseModel):
    """Equal releases: `count` times a mechanism with this noise and sampling rate."""

    model_config = ConfigDict(frozen=True)

    sampling: Literal["poisson", "fixed"] = "poisson"

    mechanism: Literal["gaussian", "laplace"]
    noise: float
    sampling_rate: float
    count: int


class Ledger(BaseModel):
    """All releases of a run so far, or of a model that is derived from one."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    before: tuple[Ledger, ...] = ()
    """For a derived model: the ledgers of the models it comes from, oldest first."""

    noise: Literal["seeded", "secure"] = "seeded"
    """Where the noise comes from, see `fedsim.privacy.address`. With seeded noise, a round that runs again repeats its
    release bit for bit."""
    recipe: str = ""
    """Identifies the recipe: recipes with different noise have different values."""
    releases: tuple[Release, ...]
    """The releases, as declared before the first round."""
    rounds: int = Field(0, ge=0)
    """Rounds of the server so far."""
    took_part: list[_Counts]
    """For each client, the number of rounds it was drawn for. A client that failed counts as if it had answered."""

    @property
    def parts(self) -> tuple[Ledger, ...]:
        """The parts that are composed: the earlier ledgers, oldest first, and this one."""
        return (*self.before, self.model_copy(update={"before": ()}))

    def then(self, *since: Ledger) -> Ledger:
        """Return the ledger of a model that is derived from this one with these releases; without any, this ledger.

        A release of the model without a mechanism makes epsilon infinite from there on, see `unprotected`.
        """
        *earlier, last = (part for ledger in (self, *since) for part in ledger.parts)
        return last.model_copy(update={"before": tuple(earlier)})

    def covers_round(self, server_round: int) -> bool:
        """Return whether a round that runs now was released before with the same bits."""
        return self.noise == "seeded" and server_round <= self.rounds

    def add_round(self, cohort: Iterable[int]) -> None:
        """Count a round, and the clients that were drawn for it."""
        self.rounds += 1
        for client in cohort:
            self.took_part[client] += 1

    def spent(self, release: Release, client: int) -> Spent | None:
        """Return how often this release has shown data of `client`; None if never, or without a mechanism."""
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
        """Return the releases with a mechanism that protects this unit."""
        return [release for release in self.releases if release.unit == unit]

    def uncovered(self, unit: Unit) -> list[Release]:
        """Return the releases without a mechanism that no release with a mechanism for this unit covers completely."""
        protecting = self.protecting(unit)
        return [
            release
            for release in self.releases
            if release.mechanism == "none"
            and not all(any(p.matches(item) for p in protecting) for item in release.covers)
        ]

    def save(self, run_folder: Path, name: str = FILE) -> None:
        """Write `privacy.json` atomically, then remove the journal: its rounds are in `privacy.json` now."""
        write_atomically(run_folder / name, seal(self.model_dump_json(indent=1)))
        (run_folder / _JOURNAL).unlink(missing_ok=True)

    def journal(self, run_folder: Path, cohort: Sequence[int]) -> None:
        """Append the newest round and its cohort to the journal. The line is on disk when this returns."""
        line = _CohortLine.of(self.rounds, cohort).model_dump_json() + "\n"
        with (run_folder / _JOURNAL).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()  # survives a crash of the process
            if any(release.mechanism != "none" for release in self.releases):
                os.fsync(file.fileno())  # survives a crash of the machine

    @classmethod
    def read(cls, run_folder: Path) -> Ledger:
        """Return the ledger of a run.

        Raises
        ------
        FedsimError
            If the run has no ledger, or the ledger is damaged.
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
        # Text after the last line break was being written when the process died; no client had received a message yet.
        for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
            try:
                line = _CohortLine.model_validate_json(text)
                if line != _CohortLine.of(line.rounds, line.cohort):
                    raise Damaged
                if line.rounds > self.rounds:  # else the round is in privacy.json, and a crash kept the journal
                    self.add_round(line.cohort)
                    self.rounds = line.rounds
            except (ValidationError, IndexError, Damaged):
                raise FedsimError(
                    f"{file}: line {number} is malformed; restore that file or give another run"
                ) from None


class _CohortLine(BaseModel):
    """A round in the journal."""

    rounds: int = Field(ge=1)
    """Rounds of the ledger, this one included."""
    cohort: list[_Counts]
    sha256: str
    """SHA-256 of the JSON text of both fields."""

    @classmethod
    def of(cls, rounds: int, cohort: Sequence[int]) -> _CohortLine:
        told = json.dumps([rounds, list(cohort)])
        return cls(rounds=rounds, cohort=list(cohort), sha256=hashlib.sha256(told.encode()).hexdigest())


def exists(run_folder: Path) -> bool:
    """Return whether a run has a ledger."""
    return (run_folder / FILE).is_file()


def unprotected(what: str, clients: int) -> Ledger:
    """Return the ledger of one release: a model made from the data of all clients without noise."""
    release = Release(
        what=what, covers=("model",), note="made from samples without noise: epsilon is infinite from here"
    )
    return Ledger(releases=(release,), rounds=1, took_part=[1] * clients)


def without(item: str, release: Release) -> Release:
    """Return this release without an item, for a method that declares the item elsewhere."""
    return release.model_copy(update={"covers": tuple(pattern for pattern in release.covers if pattern != item)})


def _of(value: float | tuple[float, ...], client: int) -> float:
    return value[client] if isinstance(value, tuple) else value
