"""Show the summary of a run on a terminal, for `fedsim show RUN`."""

import shlex
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedsim.atomic import size_on_disk
from fedsim.report.glossary import headline, meaning
from fedsim.report.wording import (
    ABSENT,
    direction,
    format_duration,
    format_metric,
    group_metrics,
    key_options,
    metric_label,
    rounds_text,
    split_name,
)
from fedsim.runs.folder import RunFolder

_BARS: Final = "▁▂▃▄▅▆▇█"
_TREND_WIDTH: Final = 40
_FEW_CLASSES: Final = 12
_NAMED_CLASSES: Final = 3
_STATUS_STYLES: Final = {
    "finished": "bold green",
    "diverged": "bold red",
    "stopped": "bold yellow",
    "failed": "bold red",
    "unfinished": "bold yellow",
}


def render_summary(folder: RunFolder, everything: bool = False) -> RenderableType:
    """Return a summary of a run: its options, its end, its results, its files, and the next command.

    The results are the main metrics of its method, or with `everything` all metrics.
    """
    parts: list[RenderableType] = [_header(folder), Text(), _facts(folder)]
    if metrics := _metrics(folder) if everything else _headline(folder):
        parts += [Text(), metrics]
    else:
        parts += [Text(), Text("Nothing has been measured yet.", style="dim")]
    parts += [Text(), _files_and_next(folder)]
    return Group(*parts)


def _header(folder: RunFolder) -> Text:
    header = Text.assemble((_plain(folder.name), "bold"), "  ", (folder.status, _STATUS_STYLES[folder.status]))
    header.append(f"  round {rounds_text(folder)}")
    summary = folder.summary
    if summary and summary.wall_time_s is not None:
        header.append(f"  in {format_duration(summary.wall_time_s)}")
    if summary and summary.failures:
        header.append(f"  {summary.failures:,} client failure{'s' if summary.failures > 1 else ''}", style="yellow")
    if summary and summary.ended:
        header.append(f"\n{_plain(summary.ended)}", style="dim")
    if summary and summary.reason:
        header.append(f"\n{_plain(summary.reason)}", style=_STATUS_STYLES[folder.status])
    if folder.config_changed:
        header.append("\nconfig.yaml was changed since the run began: it had other options than these", style="yellow")
    return header


def _grid(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), value)
    return grid


def _facts(folder: RunFolder) -> Table:
    return _grid([(label, Text(_plain(value))) for label, value in key_options(folder).items()])


def _headline(folder: RunFolder) -> RenderableType | None:
    """Return the main metrics of the method with their meanings, and a hint at the others."""
    final, summary = folder.final_metrics, folder.summary
    names = headline(final, summary.shows if summary else ())
    if not names:
        return None
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for number, name in enumerate(names):
        said = meaning(name, summary.own_metrics if summary else None)
        value = Text(format_metric(name, final[name]), style="" if number else "bold")
        table.add_row(Text(_plain(said.title)), value, Text(_plain(said.sentence)))
    lines: list[tuple[str, RenderableType]] = [line for line in (_trend(folder), _per_class(folder)) if line]
    rest = len(final) - len(names)
    if rest:
        lines.append(("And", Text(f"{rest} more: fedsim show {shlex.quote(str(folder.path))} --all")))
    return Group(table, Text(), _grid(lines))


def _metrics(folder: RunFolder) -> Table | None:
    final = folder.final_metrics
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for group, names in group_metrics(final).items():
        for index, name in enumerate(names):
            value = Text(format_metric(name, final[name]), style="bold" if name == "global/accuracy" else "")
            table.add_row(Text("" if index else group), Text(_plain(metric_label(name))), value)
    if not table.row_count:
        return None
    lines: list[tuple[str, RenderableType]] = [line for line in (_trend(folder), _per_class(folder)) if line]
    if not lines:
        return table
    outer = Table.grid()
    for part in (table, Text(), _grid(lines)):
        outer.add_row(part)
    return outer


def _trend(folder: RunFolder) -> tuple[str, Text] | None:
    """Return a line on the course of the global accuracy or error; without these, of another head's."""
    others = (name for name in folder.metric_names if split_name(name)[1] in ("accuracy", "mse"))
    names = ["global/accuracy", "global/mse", *others]
    for name in names:
        rounds, values = folder.series(name)
        rounds, values = rounds[np.isfinite(values)], values[np.isfinite(values)]
        if len(values):
            break
    else:
        return None
    best_at = values.argmin() if direction(name) == "lower" else values.argmax()
    first, last, best = (format_metric(name, value) for value in (values[0], values[-1], values[best_at]))
    course = f" {first} → {last}" if len(values) > 1 else f" {last}"
    peak = f", best {best} at round {rounds[best_at]}" if values[best_at] != values[-1] else ""
    span = f" (rounds {rounds[0]}–{rounds[-1]}{peak})" if len(values) > 1 else f" (round {rounds[0]})"
    return "Trend", Text.assemble((sparkline(values), "cyan"), course, (span, "dim"), (f" {name}", "dim"))


def _per_class(folder: RunFolder) -> tuple[str, RenderableType] | None:
    values = folder.per_class_accuracy
    if values is None or not np.isfinite(values).any():
        return None
    labels = folder.class_labels(len(values))
    if len(values) <= _FEW_CLASSES:
        texts = [f"{100 * value:.0f} %" if np.isfinite(value) else ABSENT for value in values]
        cells = [Text.assemble((f"{label}: ", "dim"), text) for label, text in zip(labels, texts, strict=True)]
        return "Per class", Columns(cells, padding=(0, 2))
    order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]
    worst = ", ".join(f"{labels[c]} ({100 * values[c]:.0f} %)" for c in order[:_NAMED_CLASSES])
    best = ", ".join(f"{labels[c]} ({100 * values[c]:.0f} %)" for c in order[::-1][:_NAMED_CLASSES])
    bars = sparkline(values, 0.0, 1.0)
    return "Per class", Text.assemble((bars, "cyan"), "\n", ("lowest ", "dim"), worst, ("; highest ", "dim"), best)


def _files_and_next(folder: RunFolder) -> Table:
    files = [
        ("Model", "model.safetensors"),
        ("Report", "report.html"),
        ("Plots", "plots"),
        ("Checkpoints", "checkpoints"),
    ]
    rows = [(label, str(folder.path / name)) for label, name in files if (folder.path / name).exists()]
    if (kept := folder.path / "history").exists():
        rows.append(("History", f"{kept} ({folder.option('history.keep')}, {size_on_disk(kept) / 1e6:,.1f} MB)"))
    run = shlex.quote(str(folder.path))
    commands = [f"fedsim report {run}"] if not (folder.path / "report.html").exists() and folder.metrics else []
    if folder.status == "diverged":
        commands.insert(0, f"fedsim run --config {run} --set training.lr=LOWER")
    elif folder.status != "finished":
        commands.insert(0, f"fedsim run --resume {run}")
    elif not (  # runs with regression or unlabelled data cannot be unlearned
        any(name.endswith("/mse") for name in folder.final_metrics)
        or folder.option("data.labelled_fraction") not in (None, 1)
    ):
        names = folder.summary.client_names if folder.summary else None
        first = shlex.quote(f"client={names[0] if names else 0}")
        commands.append(f"fedsim unlearn {run} --method METHOD --forget {first}")
    lines = [(label, Text(_plain(place))) for label, place in rows]
    if commands:
        lines.append(("Next", Text("\n".join(_plain(command) for command in commands), style="bold")))
    return _grid(lines)


def sparkline(values: NDArray[np.float64], low: float | None = None, high: float | None = None) -> str:
    """Return the values as a row of at most 40 bars, with a space for NaN; more values are averaged over neighbours.

    The lowest bar is `low` and the highest `high`, by default the smallest and the largest value.
    """
    width = min(len(values), _TREND_WIDTH)
    if not width or not np.isfinite(values).any():
        return ""
    parts = [part[np.isfinite(part)] for part in np.array_split(values, width)]
    means = np.array([part.mean() if len(part) else np.nan for part in parts])
    low = float(np.nanmin(means)) if low is None else low
    high = float(np.nanmax(means)) if high is None else high
    if high <= low:
        levels = np.full(width, (len(_BARS) - 1) / 2)
    else:
        levels = np.clip((means - low) / (high - low), 0, 1) * (len(_BARS) - 1)
    return "".join(
        " " if np.isnan(mean) else _BARS[round(float(level))] for mean, level in zip(means, levels, strict=True)
    )


def _plain(text: str) -> str:
    """Return the text without control characters, which could control the terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)
