"""Learning curves: accuracies, losses and metrics of methods over rounds."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fedsim.errors import FedsimError
from fedsim.report.figures import COLORS, GROUP_COLORS, NARROW, Plot, add_legend, new_figure, thousands
from fedsim.report.groups import RunGroup, spread
from fedsim.report.wording import ERRORS, families, group_metrics, metric_label, split_name
from fedsim.runs.folder import RunFolder, run_labels

_STYLES: Final = ("-", "--", "-.", ":")
_MAIN: Final = ("accuracy", *ERRORS)
_MARKED_POINTS: Final = 25


class _Curve(NamedTuple):
    label: str
    rounds: NDArray[np.int64]
    """(N,)."""
    values: NDArray[np.float64]
    """(N,), finite."""
    margin: NDArray[np.float64] | None = None
    """(N,) half widths of the band around the curve; None for a single run."""


def curves_of(run: RunFolder, names: Sequence[str] = ()) -> Plot:
    """Return one plot of some metrics of a run over rounds; by default its accuracies, or its errors."""
    if not names:
        ends = {quantity: [n for n in run.metric_names if split_name(n)[1] == quantity] for quantity in _MAIN}
        names = next((found for found in ends.values() if found), run.metric_names)
    alike = {split_name(name)[1] for name in names}
    title = metric_label(f"global/{next(iter(alike))}") if len(alike) == 1 else "Metrics"
    label = _head_title if len(alike) == 1 else _metric_title
    plot = _curves("metrics", title, [_of_run(label(name), run, name) for name in names])
    if plot is None:
        raise FedsimError(f"{run.path}: has measured nothing yet")
    return plot


def learning_curves(folders: Sequence[RunFolder]) -> list[Plot]:
    """Return plots of accuracies, losses and families of metrics over rounds.

    A family consists of the metrics `head/family:member`, which a method names this way to get one plot for all of
    them. It is drawn only if there is more than one round. For one run, a plot shows all heads (global, clients,
    others). For several runs, there is one plot per metric with a curve per run. The accuracies on many-, medium- and
    few-shot classes are drawn only if the data have a long tail.
    """
    if len(folders) > 1:
        labelled = list(zip(run_labels(folders), folders, strict=True))
        return _drawn(
            _curves(_stem(name), title, [_of_run(label, folder, name) for label, folder in labelled])
            for name, title in _titles(folders).items()
        )
    run, (accuracies, shots, errors, losses, related) = folders[0], _sorted_names(folders)
    return _drawn(
        [
            _curves("accuracy", "Accuracy", [_of_run(_head_title(n), run, n) for n in accuracies]),
            *(
                _curves(_stem(f"accuracy_groups_{head}"), f"{_head_title(head)} accuracy by class size", curves)
                for head, curves in _by_head(run, shots).items()
            ),
            *(_curves(q, title, [_of_run(_head_title(n), run, n) for n in errors[q]]) for q, title in ERRORS.items()),
            _curves("loss", "Loss", [_of_run(_head_title(n), run, n) for n in losses]),
            *(
                _family(family, [_of_run(_member(name), run, name) for name in names])
                for family, names in related.items()
            ),
        ]
    )


def group_curves(groups: Sequence[RunGroup]) -> list[Plot]:
    """Return one plot per metric; each curve is the mean of a group's runs, with a band of its 95 % interval."""
    titles = _titles([run for group in groups for run in group.runs])
    return _drawn(
        _curves(_stem(name), title, [_of_group(group, name) for group in groups]) for name, title in titles.items()
    )


class _Names(NamedTuple):
    accuracies: list[str]
    shots: list[str]
    errors: dict[str, list[str]]
    losses: list[str]
    related: dict[str, list[str]]


def _sorted_names(folders: Sequence[RunFolder]) -> _Names:
    """Return the metrics to draw, by kind."""
    names = [n for group in group_metrics({n for f in folders for n in f.metric_names}).values() for n in group]
    shots = [name for name in names if split_name(name)[1] in {f"accuracy_{group}" for group in GROUP_COLORS}]
    return _Names(
        [name for name in names if split_name(name)[1] == "accuracy"],
        shots if any(folder.long_tailed for folder in folders) else [],
        {quantity: [n for n in names if split_name(n)[1] == quantity] for quantity in ERRORS},
        [name for name in names if split_name(name)[1] == "loss"],
        families(names),
    )


def _titles(folders: Sequence[RunFolder]) -> dict[str, str]:
    """Return {metric: title of its plot} for several runs."""
    found = _sorted_names(folders)
    plain = [*found.accuracies, *found.shots, *chain(*found.errors.values()), *found.losses]
    return {name: _metric_title(name) for name in plain} | {
        name: metric_label(name) for members in found.related.values() for name in members
    }


def _drawn(plots: Iterable[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _of_run(label: str, run: RunFolder, name: str) -> _Curve:
    rounds, values = run.series(name)
    finite = np.isfinite(values)
    return _Curve(label, rounds[finite], values[finite])


def _of_group(group: RunGroup, name: str) -> _Curve:
    """Return the mean over a group's runs, at the rounds in which all runs have a value."""
    curves = [_of_run("", run, name) for run in group.runs]
    rounds = curves[0].rounds
    for curve in curves[1:]:
        rounds = np.intersect1d(rounds, curve.rounds)
    every = np.array([curve.values[np.isin(curve.rounds, rounds)] for curve in curves])  # (runs, N)
    spreads = [spread(dict(enumerate(column)), len(every)) for column in every.T]
    margin = np.array([one.half_width for one in spreads]) if len(every) > 1 else None
    return _Curve(group.label, rounds, np.array([one.mean for one in spreads]), margin)


def _by_head(run: RunFolder, names: Sequence[str]) -> dict[str, list[_Curve]]:
    heads: dict[str, list[_Curve]] = {}
    for name in names:
        head, quantity = split_name(name)
        heads.setdefault(head, []).append(_of_run(quantity.removeprefix("accuracy_"), run, name))
    return heads


def _curves(stem: str, title: str, curves: Sequence[_Curve]) -> Plot | None:
    """Draw labelled series over rounds; None if there is nothing to draw."""
    drawn = [(index, curve) for index, curve in enumerate(curves) if len(curve.rounds)]
    if not drawn:
        return None
    figure, axes = new_figure(NARROW)
    handles = []
    for index, (label, rounds, values, margin) in drawn:
        color = GROUP_COLORS.get(label, COLORS[index % len(COLORS)])
        style = _STYLES[index // len(COLORS) % len(_STYLES)]
        marker = "o" if len(rounds) <= _MARKED_POINTS else ""
        handles += axes.plot(rounds, values, color=color, linestyle=style, linewidth=1.8, marker=marker, markersize=3.5)
        if margin is not None:
            axes.fill_between(rounds, values - margin, values + margin, color=color, alpha=0.15, linewidth=0)
    values = np.concatenate([curve.values for _, curve in drawn])
    if "accuracy" in stem:
        _percent_axis(axes, values)
    elif values.min() > 0 and values.max() > 50 * values.min():
        axes.set_yscale("log")
    last = max(int(curve.rounds[-1]) for _, curve in drawn)
    first = min(int(curve.rounds[0]) for _, curve in drawn)
    pad = max(0.02 * (last - first), 0.5 if last == first else 0.0)
    axes.set_xlim(first - pad, last + pad)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_xlabel("Round")
    axes.set_ylabel(title, parse_math=False)
    add_legend(figure, handles, [curve.label for _, curve in drawn])
    return Plot(stem, title, figure)


def _family(name: str, curves: Sequence[_Curve]) -> Plot | None:
    measured_once = all(len(curve.rounds) == 1 for curve in curves)
    return None if measured_once else _curves(_stem(name), metric_label(name), curves)


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
    """Return a file stem for a metric's name, which may contain any characters."""
    return "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
