"""Show the plan of a run on a terminal, for `fedsim run --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedsim.privacy.guarantees import Guarantee
from fedsim.privacy.show import format_epsilon
from fedsim.report.wording import format_duration
from fedsim.runs.plan import Plan

_AGAINST = {"server": "everybody", "readers": "the model's readers"}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def render_plan(plan: Plan) -> RenderableType:
    """Return the plan: one line each for the work, the clients, and the costs."""
    config, sizes = plan.config, np.array(plan.samples)
    seen = sizes[sizes > 0]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    lines = [
        ("Method", f"{config.strategy.name} on {config.data.name}, {config.rounds:,} rounds, seed {config.seed}"),
        ("Clients", f"{config.clients:,}, of which {config.cohort_size:,} in a round"),
        ("Samples", f"{sizes.sum():,} for training, {plan.test_samples:,} for testing; "
         f"{seen.min():,} to {seen.max():,} a client, {int(np.median(seen)):,} in the middle"
         + (f"; {len(sizes) - len(seen):,} clients have none" if len(seen) < len(sizes) else "")),
        ("Model", f"{config.model.name}, {plan.parameters:,} numbers are sent"),
        ("Traffic", f"{format_bytes(plan.bytes_down)} to the clients of a round, {format_bytes(plan.bytes_up)} back; "
         f"{format_bytes((plan.bytes_down + plan.bytes_up) * config.rounds)} in all"),
        ("Privacy", "; ".join(_privacy(plan.guarantees)) or "nothing is protected"),
        ("Time", f"about {format_duration(plan.seconds)} with one worker, as two rounds of a few clients took"),
        ("Memory", f"{format_bytes(plan.memory_bytes)} so far"
         + (f", {format_bytes(plan.gpu_bytes)} of the GPU" if plan.gpu_bytes else "")),
        *((what.capitalize(), choice) for what, choice in plan.choices.items()),
    ]  # fmt: skip
    for label, text in lines:
        table.add_row(Text(label), Text(text))
    return Group(table, Text("\nNothing was written."))


def _privacy(found: Iterable[Guarantee]) -> list[str]:
    return [
        f"one {row.unit} {row.adjacency}: epsilon {format_epsilon(row.epsilon)} at delta {row.delta:g}, against "
        + _AGAINST[row.against]
        for row in found
    ]


def format_bytes(count: float) -> str:
    """Return a number of bytes as text, in powers of 1,000."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if count >= 100 or unit == _UNITS[0] else f"{count:.1f} {unit}"
