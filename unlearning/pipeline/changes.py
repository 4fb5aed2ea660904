"""How much a method has changed each block of a network, as a bar plot."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fedsim.models.base import Classifier
from fedsim.report.figures import COLORS, Plot, add_legend, tidy, width_of
from unlearning.pipeline.comparison import Comparison

TOUCHED = 1e-3
"""Relative change above which a block counts as touched."""

_MOST = len(COLORS)


def block_changes(before: Classifier, after: Classifier) -> dict[str, float]:
    """Return ‖θ'_l - θ_l‖ / ‖θ_l‖ of the parameters of each block l, in the network's order.

    A block consists of all parameters with the same name up to the first part that ends in a number, such as
    `features.encoder.3`.
    """
    squares: dict[str, list[float]] = {}
    for (name, first), second in zip(before.named_parameters(), after.parameters(), strict=True):
        moved, size = squares.setdefault(_block(name), [0.0, 0.0])
        old, new = first.detach().double(), second.detach().double().to(first.device)
        squares[_block(name)] = [moved + float((new - old).square().sum()), size + float(old.square().sum())]
    return {name: (moved / size) ** 0.5 if size else float(moved > 0) for name, (moved, size) in squares.items()}


def _block(name: str) -> str:
    parts = name.split(".")
    for number, part in enumerate(parts):
        if re.search(r"\d$", part):
            return ".".join(parts[: number + 1])
    return ".".join(parts[:-1] if parts[-1] in ("weight", "bias") else parts)


def plot_changes(comparison: Comparison, models: Mapping[str, Classifier]) -> list[Plot]:
    """Return the figure of the changes by the methods of a comparison; None if there is no method."""
    made = {row.name: models[row.name] for row in comparison.rows if row.kind == "method"}
    if not made:
        return []
    figure = draw_changes(models["original"], made)
    return [Plot("changes", "Relative change of each block's weights, first seed", figure)]


def draw_changes(before: Classifier, models: Mapping[str, Classifier]) -> Figure:
    """Draw a bar for each block and model; the legend says how many blocks each model has touched."""
    found = {name: block_changes(before, model) for name, model in list(models.items())[:_MOST]}
    blocks = list(block_changes(before, before))
    figure = Figure(figsize=(width_of(len(blocks) * len(found)), 3.4), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    width = 0.8 / len(found)
    for number, values in enumerate(found.values()):
        places = np.arange(len(blocks)) + (number - (len(found) - 1) / 2) * width
        axes.bar(places, [values[block] for block in blocks], width, color=COLORS[number])
    axes.set_xticks(range(len(blocks)), [block.removeprefix("features.") for block in blocks], rotation=30, ha="right")
    axes.set_ylabel("Relative change")
    touched = {name: sum(value >= TOUCHED for value in values.values()) for name, values in found.items()}
    labels = [f"{name}: {count} of {len(blocks)} touched" for name, count in touched.items()]
    add_legend(figure, [Patch(color=color) for color in COLORS[: len(found)]], labels)
    return figure
