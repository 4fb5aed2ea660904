"""The report of an unlearning: what was forgotten, how well, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from fedsim.report import html
from fedsim.report.figures import COLORS, GREY, INK, MUTED, Plot, add_legend, id_ticks, tidy, width_of
from fedsim.report.html import Section
from fedsim.report.wording import ABSENT
from unlearning.evaluation.catalogue import METRICS
from unlearning.evaluation.metric import Metric
from unlearning.pipeline.comparison import Comparison, Row
from unlearning.pipeline.measure import Measured
from unlearning.pipeline.wording import (
    CHAIN,
    cell,
    chain_rows,
    columns,
    conclusion,
    flag_text,
    groups,
    place_text,
    ranking_line,
    summary_line,
    verdict_text,
)

_FLOOR = 1e-6  # nats: smaller losses are drawn at this value
_PANEL_COLUMNS = 3

_MOST_PANELS = 9

_LEGEND = (
    "Original: the model of the run, trained on all samples. Oracle: the same federation retrained from scratch "
    "without the forgotten samples. Constant: predicts the same for every input. Masked: the original, but it never "
    "predicts the forgotten class. Finetune: the original, trained further on the kept samples."
)
_VERDICTS = (
    "The verdict uses the attacks that distinguish the original from retrained models. Forgotten: none of them "
    "distinguishes the model from retrained models. Not forgotten: at least one does. Damaged: the model is worse than "
    "retraining on kept or test samples, by more than chance and more than a point. Cannot be told here: no attack "
    "distinguishes the original from retrained models, so no method can be judged. Each comparison is with the spread "
    "of retrained models over seeds, at 5 % for all attacks together."
)


def write_page(path: Path, name: str, comparison: Comparison, drawn: Sequence[Plot]) -> Path:
    """Write the report on the unlearning `name` as one HTML file."""
    title = f"Forgetting {comparison.forget}"
    losses = [plot for plot in drawn if plot.name == "losses"]
    classes = [plot for plot in drawn if plot.name == "per_class"]
    changes = [plot for plot in drawn if plot.name == "changes"]
    hints = _hints(comparison)
    sections = [
        Section("Verdict", _lead(comparison), rows=_main_rows(comparison), compact=True, hints=hints),
        _reasons(comparison),
        _chain(comparison),
        _request(comparison),
        Section("Every metric", _every_text(comparison), rows=_every_row(comparison), folded=True, hints=hints),
        Section("Losses of forgotten and never-seen samples", _LOSSES, plots=losses),
        Section("Accuracy by class", _CLASSES, plots=classes),
        Section("Change of each block", _CHANGES, plots=changes) if changes else None,
        _attacks(comparison),
        _cost(comparison),
        Section("What the columns mean", rows=[["Column", "Meaning"], *_meanings(comparison)], folded=True),
    ]
    return html.write_page(path, title, f"{comparison.run} · {name}", [s for s in sections if s])


def plots(comparison: Comparison, measured: Mapping[str, Measured]) -> list[Plot]:
    """Return the figures of an unlearning, given the measurements of all models of the first seed.

    They are histograms of losses, and accuracies by class.
    """
    return [
        Plot("losses", "Distribution of losses, first seed", _histograms(measured)),
        Plot("per_class", "Test accuracy of each class, first seed", _per_class(comparison)),
    ]


_LOSSES = (
    "If a model has forgotten, its losses on forgotten samples are distributed like its losses on never-seen samples: "
    "the two histograms coincide, as the oracle's do. If forgotten samples have smaller losses, the model remembers "
    "them. If they have larger losses, the model was damaged, and an attacker can identify them equally well."
)
_CLASSES = "Test accuracy of each class (bars: the method closest to the oracle; markers: original and oracle)."


_CHANGES = "Change of each block's weights from the original by each method, relative to the norm of the weights."


def _lead(comparison: Comparison) -> str:
    return f"To forget: {summary_line(comparison)}. {conclusion(comparison)}"


def _main_rows(comparison: Comparison) -> list[list[str]]:
    """Return the verdicts and the most important numbers."""
    shown = [metric for metric in columns(comparison, brief=True) if metric.name != "seconds"]
    rows = []
    for title, members in groups(comparison):
        rows += [[title]] if title else []
        for row in members:
            label = f"{place_text(row, comparison)} {row.name}".strip()
            rows.append([label, verdict_text(row), *(cell(row, metric, spread=False) for metric in shown)])
    return [["Model", "Verdict", *map(_brief_head, shown)], *rows]


def _brief_head(metric: Metric) -> str:
    return f"{metric.head} %" if metric.name.startswith("accuracy") else metric.head


def _hints(comparison: Comparison) -> dict[str, str]:
    """Return the meaning of each column, by its head in either table."""
    shown = columns(comparison, brief=False)
    return {head(metric): metric.meaning for metric in shown for head in (_brief_head, lambda one: one.head)}


def _reasons(comparison: Comparison) -> Section | None:
    rows = [[row.name, f"{row.verdict}: {row.why}"] for row in comparison.rows if row.verdict and row.kind != "oracle"]
    if not rows:
        return None
    return Section("Reasons of the verdicts", rows=[["Model", "Verdict"], *rows])


def _chain(comparison: Comparison) -> Section | None:
    rows = chain_rows(comparison)
    return Section("Sequence of requests", CHAIN, rows=rows, compact=True) if rows else None


def _request(comparison: Comparison) -> Section:
    counts = zip(comparison.class_names, comparison.forgotten_classes, strict=True)
    rows = [
        ["Request", comparison.forget],
        ["Forgotten", f"{comparison.num_forget:,} training samples"],
        ["By class", ", ".join(f"{label}: {number:,}" for label, number in counts if number)],
        ["Kept", f"{comparison.num_retain:,} training samples of {comparison.clients_left} clients"],
        ["Attacked", _attacked(comparison.num_unseen)],
        ["Held out", "a quarter of the test samples, for choosing models and options; no metric here uses them "
                     "unless it says so"],
        ["Seeds", str(comparison.seeds)],
        *(["Note", note] for note in comparison.notes),
    ]  # fmt: skip
    text = f"{_VERDICTS} {ranking_line(comparison)} = marks a shared place. {_LEGEND}"
    return Section("How to read this", text, rows=[["", ""], *rows])


def _attacked(unseen: int) -> str:
    if not unseen:
        return "no: the test set has no sample of the forgotten classes, so never-seen samples have other classes"
    return f"by comparison with {unseen:,} never-seen samples of the same classes"


def _every_text(comparison: Comparison) -> str:
    spread = " ± is half of the 95 % interval over seeds." if comparison.seeds > 1 else ""
    return (
        "The aim is the oracle's accuracy on the forgotten samples, not a low one. Flags mark damage that may look "
        "like forgetting: over-forgotten (forgotten samples fit worse than never-seen ones, by more than chance), "
        f"collapsed (one class is more than 90 % of all predictions).{spread}"
    )


def _every_row(comparison: Comparison) -> list[list[str]]:
    shown = columns(comparison, brief=False)
    rows = [
        [row.name, flag_text(row, comparison.seeds) or ABSENT, *(cell(row, metric) for metric in shown)]
        for row in comparison.rows
    ]
    return [["Model", "Flags", *(metric.head for metric in shown)], *rows]


def _attacks(comparison: Comparison) -> Section | None:
    rows = [
        [row.name, METRICS[name].title, f"{a['value']:.3f}", f"{a['chance']:.3f} ± {a['standard_error']:.3f}",
         ABSENT if a["floor"] is None else f"{a['floor']['mean']:.3f} ± {a['floor']['sd']:.3f}",
         {1: "fit worse", 0: "fit equally", -1: "fit better"}[a["sign"]]]
        for row in comparison.rows for name, a in row.attacks.items()
    ]  # fmt: skip
    if not rows:
        return None
    head = ["Model", "Attack", "Value", "Chance", "Noise floor", "Forgotten samples than never-seen"]
    text = (
        "Membership attacks of the first seed; the verdict is above. A value within two standard errors of chance "
        "shows nothing. The noise floor is the same attack between random halves of the never-seen samples."
    )
    return Section("Attacks", text, rows=[head, *rows], folded=True)


def _cost(comparison: Comparison) -> Section:
    shown = [metric for metric in columns(comparison, brief=False) if metric.cost]
    rows = [
        [row.name, row.where or ABSENT, *(cell(row, metric) for metric in shown)]
        for row in comparison.rows
        if any(metric.name in row.metrics for metric in shown)
    ]
    return Section(
        "Cost",
        "Measured on this machine. Do not compare times of central and federated methods: a central method has all "
        "data on one server, and a federation has not.",
        rows=[["Model", "Where", *(metric.head for metric in shown)], *rows],
        compact=True,
        hints=_hints(comparison),
    )


def _meanings(comparison: Comparison) -> list[list[str]]:
    return [[metric.head, metric.meaning] for metric in columns(comparison, brief=False)]


def _histograms(measured: Mapping[str, Measured]) -> Figure:
    """Draw one panel for each of the first models of the table; all have the same bins."""
    losses = {
        name: [np.maximum(each.losses(role), _FLOOR) for role in ("forget", "unseen")]
        for name, each in measured.items()
        if each.facts is not None
    }
    losses = dict(list(losses.items())[:_MOST_PANELS])
    everything = np.concatenate([side for sides in losses.values() for side in sides])
    bins = np.geomspace(everything.min() / 2, 2 * everything.max(), 40)
    lines = -(-len(losses) // _PANEL_COLUMNS)
    figure = Figure(figsize=(10.8, 0.6 + 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, _PANEL_COLUMNS, sharex=True, squeeze=False).ravel()
    for panel in panels:
        panel.set_visible(False)
    for panel, (name, sides) in zip(panels, losses.items(), strict=False):
        panel.set_visible(True)
        tidy(panel)
        for values, color in zip(sides, (COLORS[1], COLORS[0]), strict=True):
            panel.hist(values, bins, weights=np.full(len(values), 1 / len(values)), color=color, alpha=0.55)
        panel.set_xscale("log")
        panel.set_title(name, fontsize=10, color=INK, parse_math=False)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        panel.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("Cross-entropy (nats)", fontsize=10, color=MUTED)
    handles = [Patch(color=COLORS[1], alpha=0.55), Patch(color=COLORS[0], alpha=0.55)]
    add_legend(figure, handles, ["to forget", "never seen"])
    return figure


def _per_class(comparison: Comparison) -> Figure:
    best = comparison.best
    classes = np.arange(len(comparison.forgotten_classes))
    figure = Figure(figsize=(width_of(len(classes)), 3.4), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    forgotten = np.array(comparison.forgotten_classes) > 0
    colors = np.where(forgotten, COLORS[1], GREY).tolist()
    if best.class_accuracy:
        axes.bar(classes, _accuracies(best), width=0.7, color=colors)
    handles: list[Patch | Line2D] = [Patch(color=COLORS[1]), Patch(color=GREY)]
    labels = [f"{best.name}, classes with forgotten samples", f"{best.name}, other classes"]
    for row, marker, color in zip(comparison.rows, "_x", (INK, COLORS[2]), strict=False):
        if row.kind in ("original", "oracle") and row.class_accuracy:
            axes.plot(classes, _accuracies(row), linestyle="", marker=marker, markersize=11, color=color, mew=2)
            handles.append(Line2D([], [], linestyle="", marker=marker, color=color, mew=2))
            labels.append(row.name)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("Class")
    id_ticks(axes.xaxis, len(classes))
    add_legend(figure, handles, labels)
    return figure


def _accuracies(row: Row) -> list[float]:
    return [np.nan if value is None else value for value in row.class_accuracy]
