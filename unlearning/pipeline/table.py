"""Shows the outcome of an unlearning on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from unlearning.pipeline.comparison import Comparison, Row
from unlearning.pipeline.wording import (
    CHAIN,
    cell,
    chain_rows,
    columns,
    conclusion,
    federation_costs,
    flag_text,
    groups,
    place_text,
    ranking_line,
    summary_line,
    verdict_text,
)

_STYLES = {"original": "", "oracle": "green", "method": "bold", "baseline": "dim"}
_VERDICTS = {"forgotten": "green", "not forgotten": "yellow", "damaged": "red"}
_WIDE = 110
"""Width of a terminal, in characters, from which on intervals are shown."""


def render_comparison(comparison: Comparison, folder: Path) -> RenderableType:
    """Return the request, the verdict, the table of models, and the path of the report."""
    parts: list[RenderableType] = [
        Text(f"To forget: {summary_line(comparison)}"),
        Text(conclusion(comparison), style="bold"),
        Text(),
        _Models(comparison),
        Text(),
    ]
    if costs := _federation_costs(comparison):
        parts += [costs, Text()]
    if chain := chain_rows(comparison):
        parts += [_grid(chain), Text(CHAIN, style="dim"), Text()]
    parts += [Text(f"Note: {note}", style="yellow") for note in comparison.notes]
    flags = [f"{row.name} ({flag_text(row, comparison.seeds)})" for row in comparison.rows if row.flags]
    parts += [Text(f"Flags: {', '.join(flags)}", style="yellow")] if flags else []
    titles = [title for title, _ in groups(comparison) if title]
    legend = " ".join([ranking_line(comparison), "Accuracies in percent.", *(f"{title}." for title in titles)])
    return Group(*parts, Text(legend, style="dim"), Text(f"Report: {folder / 'report.html'}"))


class _Models:
    """The table of models; it shows intervals on a wide terminal."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        comparison, spread = self.comparison, options.max_width >= _WIDE
        shown = columns(comparison, brief=True)
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("Model", no_wrap=True)
        if comparison.is_judged:
            table.add_column("Verdict", no_wrap=True)
        for metric in shown:
            table.add_column(metric.head, justify="right", no_wrap=True)
        for title, rows in groups(comparison):
            if title:
                table.add_row("", Text(title.partition(":")[0].lower(), style="dim italic"))
            for row in rows:
                cells = (Text(cell(row, metric, spread=spread)) for metric in shown)
                table.add_row(*self._cells(row), *cells, style=_STYLES[row.kind])
        yield table

    def _cells(self, row: Row) -> list[Text]:
        cells = [Text(place_text(row, self.comparison)), Text(row.name)]
        if self.comparison.is_judged:
            cells.append(Text(verdict_text(row), style=_VERDICTS.get(row.verdict or "", "")))
        return cells


def _grid(rows: list[list[str]]) -> Table:
    """Return a table; the first row is the head, and columns of numbers are aligned right."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column, head in enumerate(rows[0]):
        table.add_column(head, justify="left" if column < 2 else "right")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def _federation_costs(comparison: Comparison) -> Table | None:
    """Return a table of each model's costs for the federation; None if no model has any."""
    if not (shown := federation_costs(comparison)):
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("Cost", no_wrap=True)
    for metric in shown:
        table.add_column(metric.head, justify="right")
    for row in comparison.rows:
        if any(metric.name in row.metrics for metric in shown):
            table.add_row(Text(row.name), *(Text(cell(row, metric)) for metric in shown), style=_STYLES[row.kind])
    return table
