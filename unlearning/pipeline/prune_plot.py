"""How many channels of each group a pruning has left, as a picture and as a table."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table

from fedsim.report.figures import COLORS, GREY, NARROW, Plot
from unlearning.pipeline.pruning_record import MeasuredModel, Pruning


def layers_plot(record: Pruning) -> Plot:
    """Return a bar for each group of channels: what was there, and what is left."""
    names = list(record.channels)
    figure = Figure(figsize=(NARROW[0], max(NARROW[1], 0.3 * len(names) + 1)), layout="constrained")
    axes = figure.add_subplot()
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
    """Return the table of before and after, and where the model is."""
    table = Table("", "before", "after", "ratio", box=None, pad_edge=False)
    rows = {
        "test accuracy": ("accuracy", "{:.1%}"),
        "test loss": ("loss", "{:.3f}"),
        "FLOPs a sample": ("flops", "{:,}"),
        "parameters": ("parameters", "{:,}"),
        "model, MB": ("megabytes", "{:.2f}"),
        "ms, batch of 1": ("milliseconds_1", "{:.2f}"),
        "ms, batch of 256": ("milliseconds_256", "{:.2f}"),
    }
    for title, (name, form) in rows.items():
        table.add_row(title, *_cells(record.before, record.after, name, form))
    done = [word for word, on in (("compensated", record.compensate), ("batch norm", record.batch_norm)) if on]
    how = f"{record.method}, {record.target}, {record.cuts} cut(s); {' and '.join(done) or 'no correction'}"
    return Lines(how, f"looked at: {record.data}", "", table, "", str(folder))


def _cells(before: MeasuredModel, after: MeasuredModel, name: str, form: str) -> tuple[str, str, str]:
    old, new = getattr(before, name), getattr(after, name)
    if old is None:
        return "-", "-", "-"
    return form.format(old), form.format(new), f"{new / old:.2f}" if old else "-"
