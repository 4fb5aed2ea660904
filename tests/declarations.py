"""Comparison of the content of replies with the ledger."""

from collections.abc import Iterable, Sequence

from fedsim.privacy.ledger import Release


def undeclared(items: Iterable[str], releases: Sequence[Release]) -> list[str]:
    """Return the items of replies that no release covers, sorted."""
    return sorted({item for item in items if not any(release.matches(item) for release in releases)})
