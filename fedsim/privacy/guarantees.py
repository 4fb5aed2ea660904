"""Compose the releases of a ledger: (epsilon, delta) for each unit, and what remains without protection."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from fedsim.privacy.accountant import Gaussian, Replaced, epsilon, frontier, rdp_replaced, replaced
from fedsim.privacy.ledger import Ledger, Release, Spent, Unit

UNITS: tuple[Unit, ...] = ("response", "example", "client")


class Guarantee(NamedTuple):
    """One line of `fedsim privacy`."""

    unit: Unit
    adjacency: str
    """How two neighbouring data sets differ in one unit."""
    against: str
    epsilon: float
    """Infinite if there is no protection."""
    delta: float
    accountant: str
    """How epsilon was computed; empty for Laplace noise alone, whose epsilons add up."""
    client: int
    """The client with the largest epsilon."""
    what: tuple[str, ...]
    """The releases that were composed."""


def guarantees(ledger: Ledger, *, with_replaced: bool = True) -> list[Guarantee]:
    """Return the guarantees after the rounds so far: as declared, and also for one unit replaced where they differ.

    For a derived model they compose all parts of its ledger.
    """
    found = []
    for unit in UNITS:
        declared = [r for part in ledger.parts for r in part.protecting(unit)]
        open_to_all = any(_shows_model(part, unit) for part in ledger.parts)
        for against, adjacency in dict.fromkeys((r.against, r.adjacency) for r in declared):
            releases = [r for r in declared if (r.against, r.adjacency) == (against, adjacency)]
            rows = _of_group(ledger, unit, against, adjacency, [] if open_to_all else releases, with_replaced)
            if open_to_all:  # no noise before or after repairs that
                delta, what = max(r.delta for r in releases), tuple(dict.fromkeys(r.what for r in releases))
                rows = [row._replace(epsilon=math.inf, delta=delta, accountant="none", what=what) for row in rows]
            found += rows
    return found


def promised_units(ledger: Ledger, *, ended: bool) -> list[Unit]:
    """Return the units whose privacy a ledger promises.

    With `ended`, include units whose epsilon a later release has made infinite.
    """
    found = guarantees(ledger, with_replaced=False)
    return list(dict.fromkeys(row.unit for row in found if ended or row.epsilon < math.inf))


def in_words(units: Iterable[Unit]) -> str:
    """Return units as a part of a sentence, such as "examples and clients"."""
    return " and ".join(f"{unit}s" for unit in units)


def _shows_model(part: Ledger, unit: Unit) -> bool:
    """Return whether this part has released the model without any protection of the unit."""
    return any("model" in release.covers for release in part.uncovered(unit)) and any(part.took_part)


def _of_group(
    ledger: Ledger, unit: Unit, against: str, adjacency: str, releases: list[Release], with_replaced: bool
) -> list[Guarantee]:
    """Return the rows of the clients with the largest epsilon: as declared, and for one unit replaced.

    The two rows may be about different clients.
    """
    delta, what = max((r.delta for r in releases), default=0.0), tuple(dict.fromkeys(r.what for r in releases))
    histories = _distinct(ledger, releases)
    worst = (0.0, "", 0)
    for spent, client in histories:
        worst = max(worst, (*composed(spent, delta), client), key=lambda row: row[0])
    rows = [Guarantee(unit, adjacency, against, worst[0], delta, worst[1], worst[2], what)]
    if with_replaced and adjacency == "added or removed":
        found = _replaced(histories, delta)
        rows.append(Guarantee(unit, "replaced", against, found[0].epsilon, delta, found[0].accountant, found[1], what))
    return rows


def _replaced(histories: list[tuple[tuple[Spent, ...], int]], delta: float) -> tuple[Replaced, int]:
    """Return the weakest guarantee of any client for one unit replaced, and that client."""
    # RDP alone is quick and gives an upper bound: it rules out clients that cannot have the largest epsilon.
    bounds = [rdp_replaced(_gaussians(spent), delta, _pure(spent)).epsilon for spent, _ in histories]
    worst, whose = Replaced(0.0, delta, "exact"), 0
    for bound, (spent, client) in sorted(zip(bounds, histories, strict=True), key=lambda row: -row[0]):
        if bound > worst.epsilon:
            found = replaced(_gaussians(spent), delta, _pure(spent))
            worst, whose = (found, client) if found.epsilon >= worst.epsilon else (worst, whose)
    return worst, whose


def composed(spent: Iterable[Spent], delta: float) -> tuple[float, str]:
    """Return an epsilon at `delta` for all of these releases together, and how it was computed.

    The accountant composes Gaussian releases. Epsilons of Laplace releases are added. The two results are added.
    """
    spent = tuple(spent)
    gaussians = _gaussians(spent)
    if not gaussians:
        return _pure(spent), ""
    bound = epsilon(gaussians, delta)
    return _pure(spent) + bound.epsilon, bound.accountant


def _gaussians(spent: Iterable[Spent]) -> list[Gaussian]:
    return [
        Gaussian(s.noise, s.sampling_rate, s.count, s.sampling == "fixed") for s in spent if s.mechanism == "gaussian"
    ]


def _pure(spent: Iterable[Spent]) -> float:
    # Laplace noise of scale b per unit of L1 sensitivity is (1/b)-DP.
    return sum(s.count / s.noise if s.noise else float("inf") for s in spent if s.mechanism == "laplace")


def _distinct(ledger: Ledger, releases: list[Release]) -> list[tuple[tuple[Spent, ...], int]]:
    """Return the distinct histories of the clients, each with the first client that has it.

    For a single release, keep only the histories that no other one exceeds.
    """
    seen: dict[tuple[Spent, ...], int] = {}
    clients = max(len(part.took_part) for part in ledger.parts)
    kinds = [(part, release) for part in ledger.parts for release in part.releases if release in releases]
    for client in range(clients):
        spent = tuple(s for part, release in kinds if (s := part.spent(release, client)) is not None)
        if spent:
            seen.setdefault(spent, client)
    if len(kinds) == 1:
        kept = set(frontier((spent.sampling_rate, spent.count) for (spent,) in seen))
        seen = {key: client for key, client in seen.items() if (key[0].sampling_rate, key[0].count) in kept}
    return list(seen.items())
