"""The distribution of accuracies over clients: one histogram of trained and of unseen clients."""

import csv
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedsim.errors import FedsimError
from fedsim.report.figures import COLORS, NARROW, Plot, add_legend, new_figure
from fedsim.runs.client_scores import FILE
from fedsim.runs.folder import RunFolder

_GROUPS = {"seen": "Clients that train", "unseen": "Unseen clients"}
_FEWEST = 3
"""Clients that a histogram needs, at least."""


def client_accuracies(folder: RunFolder) -> dict[str, list[float]]:
    """Return the accuracies in a run's clients.csv by group, "seen" and "unseen"; {} without any."""
    path = folder.path / FILE
    if not path.exists():
        return {}
    found: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("accuracy"):
                    found.setdefault(row["group"], []).append(float(row["accuracy"]))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise FedsimError(f"{path}: cannot be read ({error}); delete it, or give another run") from None
    return found


def client_plots(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return a histogram of clients' accuracies, for a single run that measured some clients."""
    if len(folders) != 1:
        return []
    groups = {_GROUPS.get(group, group): values for group, values in client_accuracies(folders[0]).items()}
    if sum(map(len, groups.values())) < _FEWEST:
        return []
    figure, axes = new_figure(NARROW)
    every = np.concatenate(list(groups.values()))
    edges = np.linspace(min(0.95, float(every.min())), max(float(every.max()), float(every.min()) + 0.05), 16)
    handles = []
    for color, values in zip(COLORS, groups.values(), strict=False):
        *_, bars = axes.hist(values, bins=edges.tolist(), color=color, alpha=0.6)
        handles.append(bars[0])  # type: ignore[index]
    axes.set_xlabel("Accuracy on a client's own test samples")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("Clients")
    add_legend(figure, handles, list(groups))
    return [Plot("clients", "Accuracy over clients", figure)]
