"""The accuracy on each stage's classes after each stage, as a heat map, for runs with stages."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedsim.report.figures import INK, MUTED, Plot, id_ticks, tidy
from fedsim.runs.folder import RunFolder, run_labels

_ACCURACIES = LinearSegmentedColormap.from_list("accuracies", ["#F7FAFC", "#9CC9E3", "#0072B2"])
_MOST_WRITTEN: Final = 12
"""With at most this many stages, the cells show numbers."""


def stage_plots(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return the accuracy matrix of every run with stages."""
    staged = [
        (label, matrix)
        for label, folder in zip(run_labels(folders), folders, strict=True)
        if (matrix := folder.stage_matrix) is not None
    ]
    plots = []
    for index, (label, matrix) in enumerate(staged):
        suffix, of = (f"_{index + 1}", f": {label}") if len(folders) > 1 else ("", "")
        plots.append(Plot(f"stages{suffix}", f"Accuracy on the classes of each stage{of}", _heat_map(matrix)))
    return plots


def _heat_map(matrix: NDArray[np.float64]) -> Figure:
    """Draw a matrix (T, T) of accuracies, one row per completed stage."""
    count = len(matrix)
    side = float(np.clip(1.6 + 0.5 * count, 3.0, 6.5))
    figure = Figure(figsize=(max(side, 5.6), side), layout="constrained")
    axes = figure.subplots()
    tidy(axes, grid=False)
    axes.imshow(np.ma.masked_invalid(matrix), cmap=_ACCURACIES, vmin=0, vmax=1, aspect="equal")
    for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True) if count <= _MOST_WRITTEN else ():
        value = matrix[row, column]
        axes.text(
            column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9,
            color="white" if value > 0.6 else INK,
        )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        id_ticks(axis, count)
        axis.set_ticks(axis.get_ticklocs(), labels=[str(int(place) + 1) for place in axis.get_ticklocs()])
    axes.set_xlabel("Classes of stage", color=MUTED)
    axes.set_ylabel("After stage", color=MUTED)
    return figure
