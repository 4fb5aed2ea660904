"""The outcome of an unlearning on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from unlearning.pipeline.comparison import Comparison
from unlearning.pipeline.wording import cell, columns, federation_costs, flag_text, place_text, summary_line

_STYLES = {"original": "dim", "oracle": "green", "method": "bold", "baseline": "dim"}


def render_comparison(comparison: Comparison, folder: Path) -> RenderableType:
    """Return the table of models, nearest to the oracle first, and where the rest is."""
    shown = columns(comparison, brief=True)
    flagged = any(row.flags for row in comparison.rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("Model", no_wrap=True)
    for column in shown:
        table.add_column(column.head, justify="right")
    if flagged:
        table.add_column("Flags")
    for row in comparison.rows:
        cells = [place_text(row), row.name, *(cell(row, column) for column in shown)]
        cells += [flag_text(row, comparison.seeds)] if flagged else []
        table.add_row(*map(Text, cells), style=_STYLES[row.kind])
    parts: list[RenderableType] = [Text(f"To forget: {summary_line(comparison)}"), Text(), table, Text()]
    if costs := _federation_costs(comparison):
        parts += [costs, Text()]
    parts += [Text(f"Note: {note}", style="yellow") for note in comparison.notes]
    order = (
        "Gap: mean distance to the oracle of Forget, Retain, Test and MIA, in points; the smallest is first."
        if comparison.is_ranked
        else "Not ranked: --compare retrain adds the model to be compared with."
    )
    return Group(*parts, Text(order, style="dim"), Text(f"Report: {folder / 'report.html'}"))


def _federation_costs(comparison: Comparison) -> Table | None:
    """Return what each model cost the federation, beside the table that a terminal is too narrow to widen."""
    if not (shown := federation_costs(comparison)):
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("Cost", no_wrap=True)
    for column in shown:
        table.add_column(column.head, justify="right")
    for row in comparison.rows:
        if any(column.metric in row.metrics for column in shown):
            table.add_row(Text(row.name), *(Text(cell(row, column)) for column in shown), style=_STYLES[row.kind])
    return table
