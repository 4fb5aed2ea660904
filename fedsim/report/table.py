"""The table of a paper: one row per group of runs, one column per measure.

As Markdown, LaTeX, CSV or for a terminal.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedsim.errors import FedsimError, nearest
from fedsim.report.groups import (
    Measure,
    RunGroup,
    Spread,
    common_names,
    describe_level,
    final,
    megabytes_to,
    not_worse,
    rounds_to,
    seconds_to,
    spread,
)
from fedsim.report.wording import ABSENT, GROUPS, direction, group_of, metric_label, split_name

_HEADLINES: Final = ("global/accuracy", "global/mse", "clients/accuracy", "unseen/accuracy")
_LATEX: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


@dataclass(frozen=True)
class MeasureColumn:
    """One measure for all groups."""

    title: str
    measure: Measure
    way: Literal["higher", "lower"] | None
    """Which direction is better."""
    percent: bool = False
    """Whether it is a share in [0, 1] that is shown in percent."""


@dataclass(frozen=True)
class MeasureCell:
    """One group in one measure."""

    spread: Spread
    best: bool
    percent: bool

    def text(self, sign: str = " ± ") -> str:
        """Return mean ± deviation, and the number of runs with a value if some have none."""
        if not self.spread.n:
            return ABSENT
        mean, sd = (100 * value if self.percent else value for value in (self.spread.mean, self.spread.sd))
        parts = [_number(mean, self.percent)] + ([] if math.isnan(sd) else [_number(sd, self.percent)])
        missing = "" if self.spread.n == self.spread.of else f" ({self.spread.n} of {self.spread.of})"
        return sign.join(parts) + missing


def columns_of(
    groups: Sequence[RunGroup], metrics: Sequence[str] = (), target: float | None = None
) -> list[MeasureColumn]:
    """Return the columns: the named metrics, or the main ones, and the cost of reaching a target.

    Raises
    ------
    FedsimError
        If no run has such a metric.
    """
    known = common_names(groups)
    for name in metrics:
        if name not in known:
            raise FedsimError(f"--metric {name}: no run has measured it; {nearest(name, known)}")
    names = list(metrics) or [name for name in _HEADLINES if name in known] or known[:1]
    columns = [
        MeasureColumn(_title(name), final(name), direction(name), "accuracy" in split_name(name)[1]) for name in names
    ]
    if target is not None and names:
        told = f"{_title(names[0])} {target:g}"
        columns += [
            MeasureColumn(f"Rounds to {told}", rounds_to(names[0], target), "lower"),
            MeasureColumn(f"MB to {told}", megabytes_to(names[0], target), "lower"),
            MeasureColumn(f"Seconds to {told}", seconds_to(names[0], target), "lower"),
        ]
    return columns


def rows_of(groups: Sequence[RunGroup], columns: Sequence[MeasureColumn]) -> list[list[MeasureCell]]:
    """Return one row of cells per group."""
    found: list[list[MeasureCell]] = [[] for _ in groups]
    for column in columns:
        values: list[Mapping[int, float]] = [group.values(column.measure) for group in groups]
        # Groups that did not reach a target in all runs are not compared with those that did.
        whole = [part if len(part) == len(group.runs) else {} for part, group in zip(values, groups, strict=True)]
        marks = not_worse(whole, column.way)
        for row, group, part, mark in zip(found, groups, values, marks, strict=True):
            row.append(MeasureCell(spread(part, len(group.runs)), mark, column.percent))
    return found


def render_table(groups: Sequence[RunGroup], columns: Sequence[MeasureColumn] | None = None) -> Group:
    """Return the table for a terminal, with a line below it that explains it."""
    columns = columns_of(groups) if columns is None else columns
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for head in ("", "n", *(column.title for column in columns)):
        table.add_column(head, overflow="fold")
    for group, row in zip(groups, rows_of(groups, columns), strict=True):
        cells = [Text(cell.text(), style="bold" if cell.best else "") for cell in row]
        table.add_row(Text(group.label), str(len(group.runs)), *cells)
    return Group(table, Text(describe_level(groups), style="dim"))


def to_markdown(groups: Sequence[RunGroup], columns: Sequence[MeasureColumn]) -> str:
    """Return the table in GitHub's Markdown."""
    heads = ["", "n", *(column.title for column in columns)]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for group, row in zip(groups, rows_of(groups, columns), strict=True):
        cells = [f"**{cell.text()}**" if cell.best else cell.text() for cell in row]
        lines.append([group.label, str(len(group.runs)), *cells])
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    told = describe_level(groups)
    return f"{table}\n\n{told[0].upper()}{told[1:]}.\n"


def to_latex(groups: Sequence[RunGroup], columns: Sequence[MeasureColumn]) -> str:
    """Return the table as a LaTeX tabular; it needs the package booktabs."""
    heads = ["", "$n$", *(_escaped(_with_unit(column)) for column in columns)]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", _latex_line(heads), r"\midrule"]
    for group, row in zip(groups, rows_of(groups, columns), strict=True):
        cells = [_latex_cell(cell) for cell in row]
        lines.append(_latex_line([_escaped(group.label), str(len(group.runs)), *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {describe_level(groups)}", ""])


def to_csv(groups: Sequence[RunGroup], columns: Sequence[MeasureColumn]) -> str:
    """Return the table with unrounded numbers: mean, sd and n of each measure, and whether it is marked."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("mean", "sd", "n", "best")
    writer.writerow(["group", "runs", *(f"{column.title} {part}" for column in columns for part in parts)])
    for group, row in zip(groups, rows_of(groups, columns), strict=True):
        cells = [
            value
            for cell in row
            for value in (_plain(cell.spread.mean), _plain(cell.spread.sd), cell.spread.n, int(cell.best))
        ]
        writer.writerow([group.label, len(group.runs), *cells])
    return out.getvalue()


FORMATS: Final[Mapping[str, Callable[[Sequence[RunGroup], Sequence[MeasureColumn]], str]]] = {
    "md": to_markdown, "latex": to_latex, "csv": to_csv,
}  # fmt: skip


def _title(name: str) -> str:
    group = group_of(name)
    label = metric_label(name)
    return label if group not in GROUPS[:4] else f"{group} {label.lower()}"


def _with_unit(column: MeasureColumn) -> str:
    return f"{column.title} (%)" if column.percent else column.title


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{value:.2f}"
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def _plain(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _latex_cell(cell: MeasureCell) -> str:
    text = cell.text(r" \pm ")
    if not cell.spread.n:
        return "--"
    number, space, missing = text.partition(" (")
    return (rf"$\mathbf{{{number}}}$" if cell.best else f"${number}$") + space + missing


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)
