"""Learning curves: accuracies, losses and what methods report of themselves, over rounds."""

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fedsim.report.figures import COLORS, GROUP_COLORS, NARROW, Plot, add_legend, new_figure, thousands
from fedsim.report.wording import ERRORS, families, group_metrics, metric_label, split_name
from fedsim.runs.folder import RunFolder, run_labels

_STYLES: Final = ("-", "--", "-.", ":")
_MARKED_POINTS: Final = 25


def learning_curves(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return accuracies, losses and families of metrics over rounds.

    A family are the metrics `head/family:member`, by whose names a method asks for one plot of them all.
    One run shows its heads (global, clients, others) in one plot; several runs are overlaid, one plot per metric.
    The accuracies on many-, medium- and few-shot classes are drawn where classes differ that much.
    """
    names = [n for group in group_metrics({n for f in folders for n in f.metric_names}).values() for n in group]
    accuracies = [name for name in names if split_name(name)[1] == "accuracy"]
    shots = [name for name in names if split_name(name)[1] in {f"accuracy_{group}" for group in GROUP_COLORS}]
    losses = [name for name in names if split_name(name)[1] == "loss"]
    errors = {quantity: [n for n in names if split_name(n)[1] == quantity] for quantity in ERRORS}
    if not any(folder.long_tailed for folder in folders):
        shots = []
    labels = run_labels(folders)
    related = families(names)
    if len(folders) == 1:
        run = folders[0]
        plots = [
            _curves("accuracy", "Accuracy", [(_head_title(n), run, n) for n in accuracies]),
            *(
                _curves(_stem(f"accuracy_groups_{head}"), f"{_head_title(head)} accuracy by class size", curves)
                for head, curves in _by_head(run, shots).items()
            ),
            *(_curves(q, title, [(_head_title(n), run, n) for n in errors[q]]) for q, title in ERRORS.items()),
            _curves("loss", "Loss", [(_head_title(n), run, n) for n in losses]),
            *(
                _curves(_stem(family), metric_label(family), [(_member(name), run, name) for name in members])
                for family, members in related.items()
            ),
        ]
    else:
        titles = {name: _metric_title(name) for name in [*accuracies, *shots, *chain(*errors.values()), *losses]}
        titles |= {name: metric_label(name) for members in related.values() for name in members}
        plots = [
            _curves(_stem(name), title, [(label, f, name) for label, f in zip(labels, folders, strict=True)])
            for name, title in titles.items()
        ]
    return [plot for plot in plots if plot is not None]


def _by_head(run: RunFolder, names: Sequence[str]) -> dict[str, list[tuple[str, RunFolder, str]]]:
    heads: dict[str, list[tuple[str, RunFolder, str]]] = {}
    for name in names:
        head, quantity = split_name(name)
        heads.setdefault(head, []).append((quantity.removeprefix("accuracy_"), run, name))
    return heads


def _curves(stem: str, title: str, curves: Sequence[tuple[str, RunFolder, str]]) -> Plot | None:
    """Draw labelled series over rounds; None when not one finite value is there."""
    drawn = []
    for index, (label, run, name) in enumerate(curves):
        rounds, values = run.series(name)
        finite = np.isfinite(values)
        if finite.any():
            drawn.append((index, label, rounds[finite], values[finite]))
    if not drawn:
        return None
    figure, axes = new_figure(NARROW)
    handles = []
    for index, label, rounds, values in drawn:
        color = GROUP_COLORS.get(label, COLORS[index % len(COLORS)])
        style = _STYLES[index // len(COLORS) % len(_STYLES)]
        marker = "o" if len(rounds) <= _MARKED_POINTS else ""
        handles += axes.plot(rounds, values, color=color, linestyle=style, linewidth=1.8, marker=marker, markersize=3.5)
    values = np.concatenate([values for *_, values in drawn])
    if "accuracy" in stem:
        _percent_axis(axes, values)
    elif values.min() > 0 and values.max() > 50 * values.min():
        axes.set_yscale("log")
    last = max(int(rounds[-1]) for _, _, rounds, _ in drawn)
    first = min(int(rounds[0]) for _, _, rounds, _ in drawn)
    pad = max(0.02 * (last - first), 0.5 if last == first else 0.0)
    axes.set_xlim(first - pad, last + pad)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_xlabel("Round")
    axes.set_ylabel(title, parse_math=False)
    add_legend(figure, handles, [label for _, label, _, _ in drawn])
    return Plot(stem, title, figure)


def _percent_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    low, high = float(values.min()), float(values.max())
    pad = max(0.05 * (high - low), 0.01)
    axes.set_ylim(max(0.0, low - pad) if low >= 0 else low - pad, min(1.0, high) + pad)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))


def _head_title(name: str) -> str:
    head = split_name(name)[0] if "/" in name else name
    known = {"global": "Global", "clients": "Clients", "unseen": "Unseen clients", "train": "Training", "": "Whole"}
    return known.get(head, head)


def _member(name: str) -> str:
    return name.rpartition(":")[2].replace("_", " ")


def _metric_title(name: str) -> str:
    quantity = split_name(name)[1]
    if quantity in ERRORS:
        return f"{_head_title(name)} {ERRORS[quantity].lower()}"
    base, _, group = quantity.partition("_")
    return f"{_head_title(name)} {base}" + (f", {group}-shot classes" if group else "")


def _stem(name: str) -> str:
    """Return a file stem for a metric's name, which may hold anything."""
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
