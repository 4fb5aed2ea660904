"""What a ledger adds up to: (epsilon, delta) per unit, against whom, and what is left without protection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fedsim.privacy.accountant import Gaussian, epsilon, frontier, replaced
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
    """Return what holds after the rounds so far: as declared, and for one unit replaced where it is not declared so."""
    found = []
    for unit in UNITS:
        groups = {(r.against, r.adjacency): None for r in ledger.protecting(unit)}
        for against, adjacency in groups:
            releases = [r for r in ledger.protecting(unit) if (r.against, r.adjacency) == (against, adjacency)]
            found += _of_group(ledger, unit, against, adjacency, releases, with_replaced)
    return found


def _of_group(
    ledger: Ledger, unit: Unit, against: str, adjacency: str, releases: list[Release], with_replaced: bool
) -> list[Guarantee]:
    delta, what = max(r.delta for r in releases), tuple(r.what for r in releases)
    worst: tuple[float, str, int, tuple[Spent, ...]] = (0.0, "", 0, ())
    for spent, client in _distinct(ledger, releases):
        value, accountant = composed(spent, delta)
        if value >= worst[0]:
            worst = (value, accountant, client, spent)
    value, accountant, client, spent = worst
    rows = [Guarantee(unit, adjacency, against, value, delta, accountant, client, what)]
    if with_replaced and adjacency == "added or removed":
        doubled = replaced(_gaussians(spent), delta, _pure(spent))
        rows.append(Guarantee(unit, "replaced", against, doubled.epsilon, delta, doubled.accountant, client, what))
    return rows


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
    return [Gaussian(s.noise, s.sampling_rate, s.count) for s in spent if s.mechanism == "gaussian"]


def _pure(spent: Iterable[Spent]) -> float:
    # Laplace noise of scale b per unit of L1 sensitivity is (1/b)-DP.
    return sum(s.count / s.noise if s.noise else float("inf") for s in spent if s.mechanism == "laplace")


def _distinct(ledger: Ledger, releases: list[Release]) -> list[tuple[tuple[Spent, ...], int]]:
    """Return the histories of clients that differ, each with its first client; of one release the worst ones only."""
    seen: dict[tuple[Spent, ...], int] = {}
    for client in range(len(ledger.took_part)):
        spent = tuple(s for release in releases if (s := ledger.spent(release, client)) is not None)
        if spent:
            seen.setdefault(spent, client)
    if len(releases) == 1:
        kept = set(frontier((spent.sampling_rate, spent.count) for (spent,) in seen))
        seen = {key: client for key, client in seen.items() if (key[0].sampling_rate, key[0].count) in kept}
    return list(seen.items())
