"""Contact sheets of the images of a run, such as those that its server synthesised."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from fedsim.report.figures import Plot
from fedsim.runs.folder import RunFolder, run_labels

_COLUMNS = 16


def picture_plots(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return a contact sheet for each set of images of the runs."""
    plots = []
    for run, (label, folder) in enumerate(zip(run_labels(folders), folders, strict=True), 1):
        for number, (title, images) in enumerate(folder.pictures.items(), 1):
            several = len(folders) > 1
            name = f"pictures_{run}_{number}" if several else f"pictures_{number}"
            plots.append(Plot(name, f"{title}: {label}" if several else title, sheet(images)))
    return plots


def sheet(images: npt.NDArray[np.uint8], columns: int = _COLUMNS) -> Figure:
    """Draw images (N, C, H, W) in rows of `columns`, unscaled, with a line between them."""
    tiles = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    blank = np.full((rows * columns - len(tiles), *tiles.shape[1:]), 255, np.uint8)
    grid = np.concatenate([tiles, blank]).reshape(rows, columns, *tiles.shape[1:])
    whole = grid.transpose(0, 3, 1, 4, 2).reshape(rows * tiles.shape[2], columns * tiles.shape[3], tiles.shape[1])
    figure = Figure(figsize=(5.6, max(0.6, 5.6 * whole.shape[0] / whole.shape[1])))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    shown = whole if whole.shape[2] == 3 else whole[:, :, 0]
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return figure
