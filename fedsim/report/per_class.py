"""The final accuracy of each class, above its number of training samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from fedsim.report.figures import (
    COLORS,
    GREY,
    GROUP_COLORS,
    MUTED,
    Plot,
    add_legend,
    id_ticks,
    thousands,
    tidy,
    width_of,
)
from fedsim.runs.folder import RunFolder, run_labels

_NAMED, _LONG, _SHORT = 20, 16, 8
"""Number of classes for which names fit; characters of a name that fit, slanted and upright."""


def per_class_plots(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return the final accuracy of each class above its number of samples; one plot per distinct data."""
    alike: dict[tuple[int, bytes], list[tuple[int, str, RunFolder]]] = {}
    for place, (label, folder) in enumerate(zip(run_labels(folders), folders, strict=True)):
        if (accuracy := folder.per_class_accuracy) is not None and np.isfinite(accuracy).any():
            counts = folder.class_counts
            alike.setdefault((len(accuracy), b"" if counts is None else counts.tobytes()), []).append(
                (place, label, folder)
            )
    plots = []
    for index, group in enumerate(alike.values()):
        places, labels, runs = zip(*group, strict=True)
        suffix, of = (f"_{index + 1}", f": {', '.join(labels)}") if len(alike) > 1 else ("", "")
        title = f"Final accuracy and training samples per class{of}"
        plots.append(Plot(f"per_class{suffix}", title, _per_class(runs, labels, places)))
    return plots


def _per_class(runs: Sequence[RunFolder], labels: Sequence[str], places: Sequence[int]) -> Figure:
    """Draw runs on the same data; `places` are their positions among all runs, which determine the colours."""
    accuracies = [values for run in runs if (values := run.per_class_accuracy) is not None]
    classes = np.arange(len(accuracies[0]))
    counts, groups = runs[0].class_counts, runs[0].class_groups
    has_counts = counts is not None and len(counts) == len(classes)
    colors: Any = COLORS[0]
    if groups is not None and len(groups) == len(classes):
        colors = [GROUP_COLORS.get(group, MUTED) for group in groups]
    figure = Figure(figsize=(width_of(len(classes)), 4.4 if has_counts else 3.2), layout="constrained")
    panels = figure.subplots(
        2 if has_counts else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + has_counts]
    )
    top, bottom = panels[0, 0], panels[-1, 0]
    for panel in {top, bottom}:
        tidy(panel)
    if len(runs) == 1:
        top.bar(classes, np.nan_to_num(accuracies[0]), width=0.78, color=colors)
    else:
        offsets = np.linspace(-0.28, 0.28, len(runs)) if len(runs) * len(classes) <= 150 else np.zeros(len(runs))
        for offset, place, values in zip(offsets, places, accuracies, strict=True):
            color, marker = COLORS[place % len(COLORS)], "osD^vPX"[place // len(COLORS) % 7]
            top.plot(classes + offset, values, marker, color=color, markersize=5, alpha=0.9, clip_on=False)
    top.set_ylim(0, 1)
    top.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    top.set_ylabel("Accuracy", color=MUTED)
    if counts is not None and has_counts:
        bottom.set_yscale("log", nonpositive="clip")
        bottom.set_ylim(0.7, 2.0 * max(int(counts.max()), 1))
        bottom.bar(classes, counts, width=0.78, color=colors if groups else GREY)
        bottom.yaxis.set_major_formatter(FuncFormatter(thousands))
        bottom.yaxis.set_minor_formatter(NullFormatter())
        bottom.set_ylabel("Samples", color=MUTED)
    bottom.set_xlim(-0.7, len(classes) - 0.3)
    bottom.set_xlabel("Class")
    names = runs[0].class_labels(len(classes))
    if len(classes) <= _NAMED and names != list(map(str, classes)):
        bottom.set_xticks(classes, labels=[name if len(name) <= _LONG else f"{name[: _LONG - 1]}…" for name in names])
        bottom.tick_params(axis="x", rotation=30 if max(map(len, names)) > _SHORT else 0)
        for tick in bottom.get_xticklabels():  # a name may contain a $
            tick.set_parse_math(False)
    else:
        id_ticks(bottom.xaxis, len(classes))
    if len(runs) > 1:
        marks = [Line2D([], [], linestyle="", marker=line.get_marker(), color=line.get_color()) for line in top.lines]
        add_legend(figure, marks, labels)
    elif groups:
        present = [group for group in GROUP_COLORS if group in groups]
        add_legend(figure, [Patch(color=GROUP_COLORS[group]) for group in present], [f"{g} samples" for g in present])
    return figure
