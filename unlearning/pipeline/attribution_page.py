"""The report of an attribution: how reliable it is, contributions of clients, and the most important samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsim.data.datasets import Dataset
from fedsim.report import html
from fedsim.report.figures import Plot
from fedsim.report.html import Section
from fedsim.report.pictures import sheet
from fedsim.report.wording import ABSENT
from unlearning.pipeline.attribution import Attribution, extremes
from unlearning.pipeline.source import Source

_TARGETS, _SHOWN = 12, 6
_METHODS = {
    "trak": "TRAK: gradients at each checkpoint, with the curvature of the loss (arXiv:2303.14186)",
    "datamodels": "datamodels: ridge regression on models of random subsets (arXiv:2202.00622)",
}
_READING = (
    "A score is the effect of a part of the training data on the margin of a test sample (the log-odds of its class), "
    "in nats: positive scores help, negative ones harm. To first order, the sum of scores predicts the effect of "
    "leaving several parts out. If samples have duplicates, each single one seems to matter less than all of them do."
)
_PICTURES = (
    "Each row shows a test sample, the training samples that help it most, and, after a gap, those that harm it most. "
    "If similar images with another label harm it, check these labels."
)


def write_page(path: Path, source: Source, made: Attribution) -> Path:
    """Write the report of an attribution as one HTML file."""
    sections = [_lead(source, made)]
    sections.append(_clients(source, made) if made.unit == "client" else _samples(source, made))
    return html.write_page(path, f"Attribution of {made.of}", str(source.folder.path), sections)


def _lead(source: Source, made: Attribution) -> Section:
    trust = "not measured: --lds 50 trains 50 models that judge it"
    if made.lds is not None:
        trust = (
            f"{made.lds.value:.3f} [{made.lds.low:.3f}, {made.lds.high:.3f}]: rank correlation with margins of "
            f"{made.lds.models} models retrained on other subsets"
        )
    rows = [
        ["", ""],
        ["Test samples", f"{made.of}: {len(made.targets):,}"],
        ["Attributed to", f"{len(made.units):,} {made.unit}s"],
        ["Method", f"{_METHODS[made.method]}, {made.models} models"],
        ["LDS", trust],
        ["Largest", f"{np.abs(made.scores).max():.3g} nats, in absolute value"],
    ]
    return Section("How to read this", _READING, rows=rows)


def _clients(source: Source, made: Attribution) -> Section:
    """Return the contribution of each client, the most helpful first."""
    mean, low, high = made.scores.mean(0), made.scores.min(0), made.scores.max(0)
    helped = (made.scores > 0).mean(0)
    names = source.data.dataset.client_names
    rows = [["Client", "Samples", "Mean", "Lowest", "Highest", "Test samples helped"]]
    for unit in np.argsort(-mean, kind="stable"):
        client = int(made.units[unit])
        rows.append([
            str(client) if names is None else names[client], f"{source.data.partition.sizes[client]:,}",
            f"{mean[unit]:+.3f}", f"{low[unit]:+.3f}", f"{high[unit]:+.3f}", f"{100 * helped[unit]:.0f} %",
        ])  # fmt: skip
    return Section("Contribution of each client", "Statistics of the scores over the test samples, in nats.", rows=rows)


def _samples(source: Source, made: Attribution) -> Section:
    """Return the most important training samples for each of the first test samples."""
    dataset, count = source.data.dataset, min(_SHOWN, len(made.units))
    rows, tiles = [["Test sample", "Class", "Most helpful (row: class, score)", "Most harmful"]], []
    for target, scores in zip(made.targets[:_TARGETS].tolist(), made.scores, strict=False):
        sides = extremes(scores, count)
        cells = [
            ", ".join(f"{made.units[u]}: {_class(dataset, int(made.units[u]))}, {scores[u]:+.3f}" for u in side)
            for side in sides
        ]
        rows.append([str(target), _name(dataset, int(dataset.y_test[target])), *(cell or "none" for cell in cells)])
        tiles += [dataset.x_test[[target]], *(_row_of(dataset.x_train[made.units[side]], count) for side in sides)]
    return Section("The most important samples", _PICTURES, rows=rows, plots=_pictures(tiles))


def _row_of(images: np.ndarray, count: int) -> np.ndarray:
    """Return images (n, ...) followed by blank ones, (count, ...)."""
    blank = np.full((count - len(images), *images.shape[1:]), 255, images.dtype)
    return np.concatenate([images, blank])


def _pictures(tiles: list[np.ndarray]) -> list[Plot]:
    """Return a figure with a row per test sample; None if samples are not images."""
    if tiles[0].dtype != np.uint8 or tiles[0].ndim != 4:
        return []
    blank = np.full_like(tiles[0], 255)
    lines = [
        np.concatenate([tiles[i], blank, tiles[i + 1], blank, tiles[i + 2]]) for i in range(0, len(tiles), 3)
    ]  # fmt: skip
    return [Plot("samples", "Test sample; most helpful; most harmful", sheet(np.concatenate(lines), len(lines[0])))]


def _class(dataset: Dataset, row: int) -> str:
    return _name(dataset, int(dataset.y_train[row]))


def _name(dataset: Dataset, label: int) -> str:
    names = dataset.class_names
    return ABSENT if label < 0 else str(label) if names is None else names[label]
