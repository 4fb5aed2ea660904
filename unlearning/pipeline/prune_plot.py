"""Shows a pruning: a table of the model before and after, and a plot of the channels of each group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table

from fedsim.report.figures import COLORS, GREY, NARROW, Plot, new_figure
from fedsim.report.section import Section
from fedsim.runs.folder import RunFolder
from unlearning.pipeline.pruning_record import FILE, MeasuredModel, Pruning, read_pruning

_ROWS = {
    "test accuracy": ("accuracy", "{:.1%}"),
    "test loss": ("loss", "{:.3f}"),
    "FLOPs a sample": ("flops", "{:,}"),
    "parameters": ("parameters", "{:,}"),
    "model, MB": ("megabytes", "{:.2f}"),
    "ms, batch of 1": ("milliseconds_1", "{:.2f}"),
    "ms, batch of 256": ("milliseconds_256", "{:.2f}"),
}


def layers_plot(record: Pruning) -> Plot:
    """Return a bar plot of the channels of each group, before and after."""
    names = list(record.channels)
    figure, axes = new_figure((NARROW[0], max(NARROW[1], 0.3 * len(names) + 1)))
    axes.grid(visible=False)
    before, after = zip(*record.channels.values(), strict=True)
    places = range(len(names))
    axes.barh(places, before, color=GREY, label="before")
    axes.barh(places, after, color=COLORS[0], label="after", height=0.5)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("channels")
    axes.legend(frameon=False)
    return Plot("channels", "Channels of each layer, before and after", figure)


def render_pruning(record: Pruning, folder: Path) -> RenderableType:
    """Return the table of the model before and after, and the path of its folder."""
    table = Table("", "before", "after", "ratio", box=None, pad_edge=False)
    for row in _rows(record):
        table.add_row(*row)
    return Lines(_how(record), f"data: {record.data}", "", table, "", str(folder))


def pruning_sections(runs: Sequence[RunFolder]) -> list[Section]:
    """Return the report section on one pruned run: the table, and the plot of channels; empty for other runs."""
    if len(runs) != 1 or not (runs[0].path / FILE).is_file():
        return []
    record = read_pruning(runs[0].path)
    text = f"{_how(record)}. Data: {record.data}. Pruned from: {record.run}."
    rows = [["", "Before", "After", "Ratio"], *_rows(record)]
    return [Section("Pruning", text, rows, plots=[layers_plot(record)])]


def _how(record: Pruning) -> str:
    done = [word for word, on in (("compensated", record.compensate), ("batch norm", record.batch_norm)) if on]
    return f"{record.method}, {record.target}, {record.cuts} cut(s); {' and '.join(done) or 'no correction'}"


def _rows(record: Pruning) -> list[tuple[str, str, str, str]]:
    return [(title, *_cells(record.before, record.after, name, form)) for title, (name, form) in _ROWS.items()]


def _cells(before: MeasuredModel, after: MeasuredModel, name: str, form: str) -> tuple[str, str, str]:
    old, new = getattr(before, name), getattr(after, name)
    if old is None:
        return "-", "-", "-"
    return form.format(old), form.format(new), f"{new / old:.2f}" if old else "-"
