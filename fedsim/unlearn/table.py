"""The outcome of an unlearning on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedsim.unlearn.comparison import RANK, Comparison
from fedsim.unlearn.wording import cell, columns, flag_text, summary_line

_STYLES = {"original": "dim", "oracle": "green", "method": "bold", "baseline": "dim"}


def render_comparison(comparison: Comparison, folder: Path) -> RenderableType:
    """Return the table of models, nearest to the oracle first, and where the rest is."""
    shown = columns(comparison, brief=True)
    flagged = any(row.flags for row in comparison.rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("Model", no_wrap=True)
    for column in shown:
        table.add_column(column.head, justify="right", no_wrap=True)
    if flagged:
        table.add_column("Flags")
    for row in comparison.rows:
        cells = [cell(row, column) for column in shown]
        table.add_row(
            row.name, *cells, *([flag_text(row, comparison.seeds)] if flagged else []), style=_STYLES[row.kind]
        )
    parts: list[RenderableType] = [Text(f"Forgot {summary_line(comparison)}"), Text(), table, Text()]
    parts += [Text(f"Note: {note}", style="yellow") for note in comparison.notes]
    if not any(RANK in row.metrics for row in comparison.rows):
        parts.append(Text("Not ranked: --compare retrain trains the model to be compared with."))
    parts.append(Text(f"Report: {folder / 'report.html'}"))
    return Group(*parts)
