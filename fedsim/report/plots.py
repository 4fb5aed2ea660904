"""All figures of a run: learning curves, accuracy per class, and the labels of each client.

Figures are plain objects drawn by Agg, without pyplot, global state or a display.
"""

from collections.abc import Sequence
from pathlib import Path

from fedsim.atomic import write_atomically
from fedsim.report.clients import client_plots
from fedsim.report.continual import stage_plots
from fedsim.report.curves import group_curves, learning_curves
from fedsim.report.figures import Plot, drawn_as, png
from fedsim.report.groups import seeds_grouped
from fedsim.report.partition import partition_plot, partition_plots
from fedsim.report.per_class import per_class_plots
from fedsim.report.pictures import picture_plots
from fedsim.runs.folder import RunFolder

__all__ = [
    "Plot",
    "all_plots",
    "client_plots",
    "learning_curves",
    "partition_plot",
    "partition_plots",
    "per_class_plots",
    "picture_plots",
    "png",
    "stage_plots",
    "write_figures",
    "write_plots",
]


def write_plots(folder: RunFolder) -> list[Path]:
    """Write all plots for which the run has data as PNG files into its `plots/`; return their paths."""
    return [write_atomically(folder.path / "plots" / f"{p.name}.png", p.png, folders=True) for p in all_plots([folder])]


def write_figures(folders: Sequence[RunFolder], out: Path, form: str) -> list[Path]:
    """Write all plots of the runs as "pdf" or "svg" files into the folder `out`, for a paper; return their paths."""
    plots = all_plots(folders) if (groups := seeds_grouped(folders)) is None else group_curves(groups)
    return [
        write_atomically(out / f"{plot.name}.{form}", drawn_as(plot.figure, form, plot.name), folders=True)
        for plot in plots
    ]


def all_plots(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return all plots for which the runs have data: curves over rounds, accuracies by stage and class, partitions."""
    return [
        *learning_curves(folders),
        *client_plots(folders),
        *stage_plots(folders),
        *per_class_plots(folders),
        *partition_plots(folders),
        *picture_plots(folders),
    ]
