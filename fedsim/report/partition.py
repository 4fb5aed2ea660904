"""A figure of the labels of each client, for one to hundreds of thousands of clients."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fedsim.report.figures import (
    COLORS,
    GREY,
    GRID,
    MUTED,
    Plot,
    add_legend,
    id_ticks,
    name_ticks,
    thousands,
    tidy,
    width_of,
)
from fedsim.runs.folder import RunFolder, run_labels

_SHARES = LinearSegmentedColormap.from_list("shares", ["#F7FAFC", "#9CC9E3", "#0072B2", "#08305C"])
_MOST_BUBBLE_CLIENTS: Final = 50
_MOST_BUBBLE_CLASSES: Final = 30
_MOST_COLUMNS: Final = 400


def partition_plots(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return a figure of each distinct partition among the runs."""
    different: dict[tuple[tuple[int, ...], bytes], tuple[NDArray[np.int64], RunFolder, list[str]]] = {}
    for label, folder in zip(run_labels(folders), folders, strict=True):
        if (counts := folder.label_counts) is not None:
            different.setdefault((counts.shape, counts.tobytes()), (counts, folder, []))[2].append(label)
    plots = []
    for index, (counts, folder, labels) in enumerate(different.values()):
        suffix, of = (f"_{index + 1}", f": {', '.join(labels)}") if len(different) > 1 else ("", "")
        title = f"Labels of the {len(counts):,} clients{of}" if len(counts) > 1 else f"Labels of the only client{of}"
        told = folder.summary
        classes = told.class_names if told and len(told.class_names or ()) == counts.shape[1] else None
        clients = told.client_names if told and len(told.client_names or ()) == len(counts) else None
        plots.append(Plot(f"partition{suffix}", title, partition_plot(counts, clients, classes)))
    return plots


def partition_plot(
    label_counts: NDArray[np.int64], clients: Sequence[str] | None = None, classes: Sequence[str] | None = None
) -> Figure:
    """Return a figure of the labels of each client, below the number of samples per client.

    Up to 50 clients and 30 classes, it has one bubble per client and class. Beyond that, it is a heat map of each
    client's shares of classes. Clients are ordered by their main class, and by its share. Beyond 400 clients, a column
    is the mean over neighbours in that order.

    Parameters
    ----------
    label_counts
        Samples per client and class, `(K, C)` with K and C at least 1.
    clients
        Names of the K clients, if they have any; shown if there is room for all.
    classes
        Names of the C classes, likewise.
    """
    num_clients, num_classes = label_counts.shape
    bubbles = num_clients <= _MOST_BUBBLE_CLIENTS and num_classes <= _MOST_BUBBLE_CLASSES
    height = 1.9 + (0.27 * num_classes if bubbles else float(np.clip(0.12 * num_classes, 2.0, 5.0)))
    figure = Figure(figsize=(width_of(num_clients), height), layout=ConstrainedLayoutEngine(hspace=0.03, h_pad=0.03))
    sizes, main = figure.subplots(2, 1, sharex=True, height_ratios=[0.9, height - 1.6])
    tidy(sizes)
    tidy(main, grid=False)
    (_bubbles if bubbles else _heat_map)(figure, sizes, main, label_counts)
    sizes.tick_params(labelbottom=False)
    sizes.set_ylabel("Samples", color=MUTED)
    sizes.set_ylim(bottom=0)
    sizes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    sizes.yaxis.set_major_formatter(FuncFormatter(thousands))
    main.set_ylabel("Class", color=MUTED)
    name_ticks(main.yaxis, num_classes, classes)
    if bubbles and clients is not None:
        name_ticks(main.xaxis, num_clients, clients)
        main.tick_params(axis="x", labelrotation=45)
    return figure


def _bubbles(figure: Figure, sizes: Axes, main: Axes, label_counts: NDArray[np.int64]) -> None:
    num_clients, num_classes = label_counts.shape
    clients, classes = np.nonzero(label_counts)
    values = label_counts[clients, classes]
    most = max(int(label_counts.max()), 1)
    # The largest bubble just fills its cell: 0.27 inches per class, and the remaining width per client, in points.
    widest = 72 * min(0.26, 0.88 * width_of(num_clients) / num_clients)
    main.grid(True, color=GRID, linewidth=0.6)
    main.scatter(clients, classes, s=widest**2 * values / most, color=COLORS[0], alpha=0.85, linewidths=0)
    main.set_xlim(-0.7, num_clients - 0.3)
    main.set_ylim(num_classes - 0.4, -0.6)
    main.set_xlabel("Client")
    id_ticks(main.xaxis, num_clients)
    sizes.bar(np.arange(num_clients), label_counts.sum(axis=1), width=0.7, color=GREY)
    keys = sorted({most, max(most // 4, 1)}, reverse=True)
    marks = [
        Line2D([], [], linestyle="", marker="o", color=COLORS[0], markersize=widest * (key / most) ** 0.5)
        for key in keys
    ]
    add_legend(figure, marks, [f"{key:,} sample{'s' if key > 1 else ''}" for key in keys])


def _heat_map(figure: Figure, sizes: Axes, main: Axes, label_counts: NDArray[np.int64]) -> None:
    num_clients, num_classes = label_counts.shape
    shares, totals = _ordered_shares(label_counts)
    extent = (-0.5, num_clients - 0.5, num_classes - 0.5, -0.5)
    # Square-root colours, so that a tenth of a client's samples is still visible beside a client with one class.
    norm = PowerNorm(0.5, vmin=0, vmax=max(float(shares.max()), 1e-9))
    image = main.imshow(shares.T, aspect="auto", cmap=_SHARES, norm=norm, extent=extent, interpolation="nearest")
    bar = figure.colorbar(image, ax=[sizes, main], pad=0.015, aspect=30)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    bar.set_label("Share of the client's samples", color=MUTED, fontsize=9)
    bar.ax.tick_params(labelsize=9, colors=MUTED, length=0)
    bar.outline.set_visible(False)
    edges = np.linspace(-0.5, num_clients - 0.5, len(totals) + 1)
    sizes.stairs(totals, edges, fill=True, color=GREY)
    per_column = num_clients / len(totals)
    merged = f"; a column is the mean of about {per_column:,.0f}" if per_column > 1 else ""
    empty = ", those without samples last" if (label_counts.sum(axis=1) == 0).any() else ""
    main.set_xlabel(f"Clients, ordered by their main class{empty}{merged}")
    main.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    main.xaxis.set_major_formatter(FuncFormatter(thousands))


def _ordered_shares(label_counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shares of classes `(columns, C)` and samples per client `(columns,)`; clients without samples are last."""
    totals = label_counts.sum(axis=1)
    largest, leader = label_counts.max(axis=1), label_counts.argmax(axis=1)
    lead = largest / np.maximum(totals, 1)
    order = np.lexsort((-lead, leader, totals == 0))
    columns = min(len(order), _MOST_COLUMNS)
    starts = np.arange(columns) * len(order) // columns
    width = np.diff(np.append(starts, len(order)))
    totals = totals[order]
    shares = label_counts[order] / np.maximum(totals, 1)[:, None]
    holders = np.maximum(np.add.reduceat((totals > 0).astype(np.int64), starts), 1)
    return np.add.reduceat(shares, starts) / holders[:, None], np.add.reduceat(totals, starts) / width
