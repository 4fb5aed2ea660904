"""One self-contained HTML page about one run, or several side by side."""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedsim.atomic import write_atomically
from fedsim.report.curves import group_curves
from fedsim.report.glossary import headline, meaning
from fedsim.report.groups import RunGroup, final, seeds_grouped, spread
from fedsim.report.plots import all_plots
from fedsim.report.privacy import epsilon_of, privacy_section
from fedsim.report.section import Section as Section
from fedsim.report.wording import (
    ABSENT,
    best_of,
    format_duration,
    format_metric,
    format_option,
    group_metrics,
    key_options,
    metric_label,
    rounds_text,
)
from fedsim.runs.folder import RunFolder, flatten, run_labels
from fedsim.version import VERSION

_MOST_CARDS = 4
_UNBROKEN = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class _ReportRow:
    label: str
    cells: Sequence[str]
    marks: Sequence[bool]
    hint: str = ""


def write_report(folders: Sequence[RunFolder], out: Path, sections: Sequence[Section] = ()) -> Path:
    """Write the report of the runs to the file `out`, atomically, and return `out`."""
    return write_atomically(out, render_report(folders, sections).encode("utf-8"), folders=True)


def render_report(folders: Sequence[RunFolder], sections: Sequence[Section] = ()) -> str:
    """Return the report of the runs as one HTML page. It needs no other file, no network and no script."""
    if not folders:
        raise ValueError("a report needs at least one run")
    if (groups := seeds_grouped(folders)) is not None:
        return _render_groups(groups, sections)
    labels = run_labels(folders)
    single = len(folders) == 1
    return _render(
        title=labels[0] if single else f"{len(folders)} runs compared",
        subtitle=str(folders[0].path) if single else " · ".join(labels),
        single=single,
        labels=labels,
        notices=_notices(folders, labels),
        cards=_cards(folders[0]) if single else [],
        overview=_overview(folders),
        metrics=_metrics(folders),
        plots=all_plots(folders),
        sections=[*filter(None, [privacy_section(folders[0]) if single else None]), *sections],
        settings=[
            ("Configuration", *_compared([_given(folder, single) for folder in folders])),
            ("Environment", *_compared([flatten(folder.environment) for folder in folders])),
        ],
        marks="★ marks the best run of a row.",
    )


def _render_groups(groups: Sequence[RunGroup], sections: Sequence[Section]) -> str:
    """Return the page for runs with several seeds: one column per group."""
    runs = [run for group in groups for run in group.runs]
    overview = [_merged(map(_facts, group.runs)) for group in groups]
    options = [_merged(_written(run.flat_config) for run in group.runs) for group in groups]
    machines = [_merged(_written(flatten(run.environment)) for run in group.runs) for group in groups]
    for facts, group in zip(overview, groups, strict=True):
        facts.pop("Model SHA-256", None)
        facts["Wall time"] = format_duration(
            sum((run.summary and run.summary.wall_time_s) or 0.0 for run in group.runs)
        )
    names = group_metrics(name for run in runs for name in run.final_metrics)
    return _render(
        title=f"{len(runs)} runs in {len(groups)} group{'s' if len(groups) > 1 else ''}",
        subtitle=" · ".join(group.label for group in groups),
        single=False,
        labels=[group.label for group in groups],
        notices=_notices(runs, run_labels(runs)),
        cards=[],
        overview=_aligned(overview),
        metrics={kind: [_group_row(name, groups) for name in members] for kind, members in names.items()},
        plots=group_curves(groups),
        sections=sections,
        settings=[("Configuration", *_compared(options)), ("Environment", *_compared(machines))],
        marks="Numbers are means over seeds ± half of their 95 % interval; ★ marks the best mean of a row.",
    )


def _group_row(name: str, groups: Sequence[RunGroup]) -> _ReportRow:
    spreads = [spread(group.values(final(name)), len(group.runs)) for group in groups]
    means = [one.mean for one in spreads]
    cells = [
        format_metric(name, one.mean) + ("" if math.isnan(one.half_width) else f" ± {_margin(name, one.half_width)}")
        for one in spreads
    ]
    return _ReportRow(metric_label(name), cells, best_of(name, means), _hint(name, groups[0].runs[0]))


def _hint(name: str, folder: RunFolder) -> str:
    """Return the meaning of a metric, and its name in the files."""
    said = meaning(name, folder.summary.own_metrics if folder.summary else None)
    return f"{said.sentence} ({name})"


def _margin(name: str, value: float) -> str:
    return format_metric(name, value).removesuffix(" %")


def _written(options: Mapping[str, Any]) -> dict[str, str]:
    return {name: format_option(value) for name, value in options.items()}


def _merged(facts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the facts of a group; a fact with several values lists all of them."""
    values: dict[str, dict[str, None]] = {}
    for run in facts:
        for name, value in run.items():
            values.setdefault(name, {})[value] = None
    return {name: ", ".join(several) for name, several in values.items()}


def write_page(out: Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write a page that consists only of sections to the file `out`, atomically, and return `out`."""
    empty: dict[str, Any] = {"notices": [], "cards": [], "overview": [], "metrics": {}, "plots": [], "settings": []}
    page = _render(title=title, subtitle=subtitle, single=True, labels=[title], sections=sections, marks="", **empty)
    return write_atomically(out, page.encode("utf-8"), folders=True)


def _render(**parts: Any) -> str:
    template = Environment(
        autoescape=True,
        extensions=["jinja2.ext.loopcontrols"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).from_string(files("fedsim.report").joinpath("template.html.j2").read_text(encoding="utf-8"))
    return template.render(**parts, inline=lambda plot: Markup(plot.svg), version=VERSION)


def _cards(folder: RunFolder) -> list[tuple[str, str, str]]:
    """Return the main numbers as (value, title, hint)."""
    final, summary = folder.final_metrics, folder.summary
    names = headline(final, summary.shows if summary else ())[:_MOST_CARDS]
    own = summary.own_metrics if summary else None
    cards = [(format_metric(name, final[name]), meaning(name, own).title, _hint(name, folder)) for name in names]
    if (epsilon := epsilon_of(folder)) is not None:
        cards.append((*epsilon, ""))
    cards.append((rounds_text(folder), "Rounds", ""))
    if summary and summary.wall_time_s is not None:
        cards.append((format_duration(summary.wall_time_s), "Wall time", ""))
    return [(value.replace(" ", _UNBROKEN), title, hint) for value, title, hint in cards]


def _given(folder: RunFolder, single: bool) -> dict[str, Any]:
    """Return the options of a run; for a single run, only those that are set."""
    return {key: value for key, value in folder.flat_config.items() if not single or value not in (None, [], {})}


def _notices(folders: Sequence[RunFolder], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return warnings that a reader needs before trusting the numbers, each with the command that helps."""
    notices = []
    for label, folder in zip(labels, folders, strict=True):
        if folder.config_changed:
            text = f"config.yaml of {label} was changed since the run began: it had other options than these."
            notices.append((text, f"fedsim run --config {shlex.quote(str(folder.path))}"))
        if folder.status != "finished":
            reason = (folder.summary and folder.summary.reason) or "it was stopped from outside, or it still goes on"
            text = f"{label} is {folder.status} after round {rounds_text(folder)}: {reason}."
            run = shlex.quote(str(folder.path))
            anew = folder.status == "diverged"
            notices.append(
                (text, f"fedsim run --config {run} --set training.lr=LOWER" if anew else f"fedsim run --resume {run}")
            )
    return notices


def _overview(folders: Sequence[RunFolder]) -> list[_ReportRow]:
    return _aligned([_facts(folder) for folder in folders])


def _aligned(facts: Sequence[Mapping[str, str]]) -> list[_ReportRow]:
    names = dict.fromkeys(name for run in facts for name in run)
    return [_ReportRow(name, [run.get(name, ABSENT) for run in facts], [False] * len(facts)) for name in names]


def _facts(folder: RunFolder) -> dict[str, str]:
    summary = folder.summary
    facts = {"Status": folder.status, "Rounds": rounds_text(folder), **key_options(folder)}
    if summary:
        extra: Mapping[str, tuple[Any, Callable[[Any], str]]] = {
            "Wall time": (summary.wall_time_s, format_duration),
            "Client failures": (summary.failures, "{:,}".format),
            "Reason": (summary.reason, str),
            "Model SHA-256": (summary.model_sha256, str),
        }
        facts |= {name: write(value) for name, (value, write) in extra.items() if value is not None}
        why = summary.engine.get("why") if isinstance(summary.engine, dict) else None
        facts |= {f"Choice of {part}": str(text) for part, text in why.items()} if isinstance(why, dict) else {}
    return facts


def _metrics(folders: Sequence[RunFolder]) -> dict[str, list[_ReportRow]]:
    finals = [folder.final_metrics for folder in folders]
    groups = group_metrics(name for final in finals for name in final)
    return {group: [_metric_row(name, folders) for name in names] for group, names in groups.items()}


def _metric_row(name: str, folders: Sequence[RunFolder]) -> _ReportRow:
    values = [folder.final_metrics.get(name, float("nan")) for folder in folders]
    cells = [format_metric(name, value) for value in values]
    return _ReportRow(metric_label(name), cells, best_of(name, values), _hint(name, folders[0]))


def _compared(settings: Sequence[Mapping[str, Any]]) -> tuple[list[_ReportRow], list[_ReportRow]]:
    """Return the rows in which runs differ, one cell per run, and those in which they agree, with one cell."""
    different, same = [], []
    for name in dict.fromkeys(name for run in settings for name in run):
        cells = [format_option(run[name]) if name in run else ABSENT for run in settings]
        if len(set(cells)) > 1:
            different.append(_ReportRow(name, cells, [False] * len(cells)))
        else:
            same.append(_ReportRow(name, cells[:1], [False]))
    return different, same
