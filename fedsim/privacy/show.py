"""Show the guarantees of a run on a terminal, for `fedsim privacy RUN`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedsim.privacy.guarantees import UNITS, Guarantee, guarantees
from fedsim.privacy.ledger import Ledger

if TYPE_CHECKING:
    from fedsim.runs.privacy_audit import Audit

_ORIGIN = {"seeded": "seeded", "secure": "the operating system's, which does not repeat,"}
_AGAINST = {"server": "everybody", "readers": "model's readers"}  # only `server` includes the server


def render_ledger(ledger: Ledger) -> RenderableType:
    """Return the guarantees after the rounds so far, and the releases that are not covered, with the reasons."""
    found = guarantees(ledger)
    units = list(dict.fromkeys(guarantee.unit for guarantee in found))
    parts: list[RenderableType] = [Text(f"{ledger.rounds} rounds, {len(ledger.took_part)} clients\n")]
    if found:
        parts += [_table(found), Text()]
        for unit in units:
            for release in ledger.protecting(unit):
                parts.append(Text(f"{unit}, by {release.what}: {release.note}.", style="dim"))
        if "client" in units and "example" not in units:
            parts.append(
                Text("example: each of a client's examples is protected at least as well as all.", style="dim")
            )
    else:
        parts.append(Text("Nothing is protected: this run has no privacy section; epsilon is infinite for every unit."))
    for unit in units or UNITS[-1:]:
        heading = f"\nNot covered, for one {unit}" if found else "\nWhat is shown"
        parts += [Text(heading, style="bold")]
        parts += [Text(f"- {release.what}: {release.note}") for release in ledger.uncovered(unit)]
    parts.append(
        Text(
            f"\nThis is a simulation: its noise is {_ORIGIN[ledger.noise]} and in floating point, "
            "so it guards no real data.",
            style="dim",
        )
    )
    return Group(*parts)


def _table(found: list[Guarantee]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("one", "if", "epsilon", "delta", "against", "accountant"):
        table.add_column(heading, header_style="dim", justify="right" if heading in ("epsilon", "delta") else "left")
    for row in found:
        accountant = row.accountant or "sum"
        table.add_row(
            row.unit, row.adjacency, Text(format_epsilon(row.epsilon), style="bold"), f"{row.delta:g}",
            _AGAINST[row.against], accountant,
        )  # fmt: skip
    return table


def format_epsilon(epsilon: float) -> str:
    """Return an epsilon as text, rounded up, so that a guarantee never looks better than it is."""
    return "infinity" if math.isinf(epsilon) else f"{math.ceil(epsilon * 1000) / 1000:.3f}"


def render_audits(audits: list[Audit]) -> RenderableType:
    """Return the lower bounds that canaries showed, beside the claimed epsilons."""
    parts: list[RenderableType] = []
    for audit in audits:
        verdict = Text("REFUTED: the mechanism leaks more than is claimed", style="bold red")
        if not audit.refuted:
            verdict = Text("no contradiction", style="green")
        parts.append(
            Text.assemble(
                (f"\nAudit, one {audit.unit} {audit.adjacency}: ", "bold"),
                f"epsilon >= {math.floor(audit.lower * 1000) / 1000:.3f} with 95 % confidence; claimed "
                f"{format_epsilon(audit.claimed)} at delta {audit.delta:g}; ",
                verdict,
            )
        )
        parts.append(
            Text(
                f"{audit.canaries} canaries, {audit.rounds} rounds with this run's noise, clipping and sampling; "
                f"so many canaries can show at most {audit.limit:.2f}.",
                style="dim",
            )
        )
    return Group(*parts)
