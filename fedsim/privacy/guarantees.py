"""What a ledger adds up to: (epsilon, delta) per unit, against whom, and what is left without protection."""

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
    """What may happen to one unit."""
    against: str
    epsilon: float
    """Infinite where nothing is protected."""
    delta: float
    accountant: str
    """How epsilon was computed; empty for Laplace noise alone, whose epsilons add up."""
    client: int
    """Whose epsilon is the largest."""
    what: tuple[str, ...]
    """The releases that were composed."""


def guarantees(ledger: Ledger, *, with_replaced: bool = True) -> list[Guarantee]:
    """Return what holds after the rounds so far: as declared, and for one unit replaced where it is not declared so.

    Of a derived model it is what all parts of its ledger add up to.
    """
    found = []
    for unit in UNITS:
        declared = [r for part in ledger.parts for r in part.protecting(unit)]
        open_to_all = any(_shows_model(part, unit) for part in ledger.parts)
        for against, adjacency in dict.fromkeys((r.against, r.adjacency) for r in declared):
            releases = [r for r in declared if (r.against, r.adjacency) == (against, adjacency)]
            rows = _of_group(ledger, unit, against, adjacency, [] if open_to_all else releases, with_replaced)
            if open_to_all:  # no noise before or after mends that
                delta, what = max(r.delta for r in releases), tuple(dict.fromkeys(r.what for r in releases))
                rows = [row._replace(epsilon=math.inf, delta=delta, accountant="none", what=what) for row in rows]
            found += rows
    return found


def promised_units(ledger: Ledger, *, ended: bool) -> list[Unit]:
    """Return whose privacy a ledger promises; with `ended`, also where a later release has made epsilon infinite."""
    found = guarantees(ledger, with_replaced=False)
    return list(dict.fromkeys(row.unit for row in found if ended or row.epsilon < math.inf))


def in_words(units: Iterable[Unit]) -> str:
    """Return units as part of a sentence: "examples and clients"."""
    return " and ".join(f"{unit}s" for unit in units)


def _shows_model(part: Ledger, unit: Unit) -> bool:
    """Return whether this part has released the model with nothing that protects the unit."""
    return any("model" in release.covers for release in part.uncovered(unit)) and any(part.took_part)


def _of_group(
    ledger: Ledger, unit: Unit, against: str, adjacency: str, releases: list[Release], with_replaced: bool
) -> list[Guarantee]:
    """Return the largest epsilon of any client: as declared, and replaced, which may be another client's."""
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
    """Return the largest guarantee for one unit replaced, and whose it is."""
    # RDP alone is quick, and an upper bound: it tells who cannot be the worst.
    bounds = [rdp_replaced(_gaussians(spent), delta, _pure(spent)).epsilon for spent, _ in histories]
    worst, whose = Replaced(0.0, delta, "exact"), 0
    for bound, (spent, client) in sorted(zip(bounds, histories, strict=True), key=lambda row: -row[0]):
        if bound > worst.epsilon:
            found = replaced(_gaussians(spent), delta, _pure(spent))
            worst, whose = (found, client) if found.epsilon >= worst.epsilon else (worst, whose)
    return worst, whose


def composed(spent: Iterable[Spent], delta: float) -> tuple[float, str]:
    """Return an epsilon at `delta` of all of these releases together, and how it was computed.

    Gaussian ones are composed by the accountant, epsilons of Laplace noise are added, and so are the two.
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
    """Return the histories of clients that differ, each with its first client; of one release the worst ones only."""
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
