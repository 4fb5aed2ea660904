"""The privacy part of a run's report: the guarantees, against whom they hold, and what is not covered."""

from __future__ import annotations

from typing import Final

from fedsim.privacy import ledger
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.show import format_epsilon
from fedsim.report.section import Section
from fedsim.runs.folder import RunFolder

_HEAD: Final = ("One", "If", "Epsilon", "Delta", "Against", "Accountant")
_AGAINST: Final = {"server": "everybody", "readers": "readers of the model"}


def epsilon_of(folder: RunFolder) -> tuple[str, str] | None:
    """Return the smallest epsilon of a run and a description of it; None without any guarantee."""
    if not ledger.exists(folder.path) or not (found := guarantees(Ledger.read(folder.path))):
        return None
    best = min(found, key=lambda guarantee: guarantee.epsilon)
    return format_epsilon(best.epsilon), f"Epsilon of one {best.unit} {best.adjacency}, delta {best.delta:g}"


def privacy_section(folder: RunFolder) -> Section | None:
    """Return the privacy section of a run; None if it has no ledger."""
    if not ledger.exists(folder.path):
        return None
    told = Ledger.read(folder.path)
    found = guarantees(told)
    if not found:
        return Section("Privacy", "Nothing is protected: this run has no privacy section, and epsilon is infinite.")
    rows: list[tuple[str, ...]] = [_HEAD]
    rows += [
        (g.unit, g.adjacency, format_epsilon(g.epsilon), f"{g.delta:g}", _AGAINST[g.against], g.accountant or "sum")
        for g in found
    ]
    for unit in dict.fromkeys(guarantee.unit for guarantee in found):
        rows.append((f"Not covered, for one {unit}",))
        rows += [(release.what, release.note, "", "", "", "") for release in told.uncovered(unit)]
    text = "fedsim privacy --audit attacks the mechanism with canaries. The noise of a simulation guards no real data."
    return Section("Privacy", text, rows=rows, compact=True)
