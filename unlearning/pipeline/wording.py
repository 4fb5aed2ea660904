"""The columns of a comparison, alike on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedsim.report.wording import ABSENT, format_duration
from unlearning.evaluation.catalogue import METRICS
from unlearning.pipeline.comparison import Comparison, Row


@dataclass(frozen=True)
class Column:
    """One metric as people read it."""

    metric: str
    head: str
    write: Callable[[float], str] = "{:.3f}".format
    brief: bool = False
    """Whether it is in the terminal's table too."""

    @property
    def meaning(self) -> str:
        """What it is and how it is read."""
        metric = METRICS[self.metric]
        parts = [metric.title, metric.unit if metric.unit != "fraction" else "", metric.reading]
        return "; ".join(part for part in parts if part)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


COLUMNS = (
    Column("accuracy_forget", "Forget", _percent, brief=True),
    Column("accuracy_retain", "Retain", _percent, brief=True),
    Column("accuracy_test", "Test", _percent, brief=True),
    Column("mia_auc", "MIA", brief=True),
    Column("average_gap", "Gap", "{:.1f}".format, brief=True),
    Column("seconds", "Time", format_duration, brief=True),
    Column("run_time_efficiency", "Speed-up", "{:.1f}×".format, brief=True),
    Column("peak_mb", "Peak MB", "{:.0f}".format),
    Column("attack_seconds", "Attack time", format_duration),
    Column("rounds", "Rounds", "{:.0f}".format),
    Column("clients_woken", "Clients woken", "{:.0f}".format),
    Column("history_mb", "History MB", "{:.1f}".format),
    Column("accuracy_forget_bn", "Forget, batch norm anew", _percent),
    Column("loss_forget", "Forget loss"),
    Column("loss_unseen", "Unseen loss"),
    Column("mia_threshold", "MIA threshold"),
    Column("mia_logistic", "MIA logistic"),
    Column("relearn_steps", "Relearn", "{:.0f}".format),
    Column("tug_of_war", "ToW"),
    Column("js_forget", "JS forget"),
    Column("js_test", "JS test"),
    Column("activation_forget", "Activation"),
    Column("relearn_ratio", "Relearn ratio", "{:.2f}".format),
    Column("nomus", "NoMUS"),
    Column("klom_forget", "KLOM forget"),
    Column("klom_forget_p95", "KLOM 95 %"),
    Column("klom_retain", "KLOM retain"),
    Column("klom_test", "KLOM test"),
    Column("u_lira", "U-LiRA"),
    Column("u_lira_auc", "U-LiRA AUC"),
    Column("forgetting_quality", "F"),
)
"""In the order shown; every metric of the catalogue that a model may have."""


_FEDERATION_COSTS = ("rounds", "clients_woken", "history_mb")
_COSTS = ("seconds", "run_time_efficiency", "peak_mb", "attack_seconds", *_FEDERATION_COSTS)


def columns(comparison: Comparison, *, brief: bool) -> list[Column]:
    """Return the columns in which some row has a value."""
    known = {name for row in comparison.rows for name in row.metrics}
    return [column for column in COLUMNS if column.metric in known and (column.brief or not brief)]


def federation_costs(comparison: Comparison) -> list[Column]:
    """Return the columns that tell what a model cost the federation, if some row has a value."""
    return [column for column in columns(comparison, brief=False) if column.metric in _FEDERATION_COSTS]


def cell(row: Row, column: Column) -> str:
    """Return a row's value, with half of its 95 % interval over seeds, and what alike models would give."""
    metric = row.metrics.get(column.metric)
    if metric is None:
        return ABSENT
    text = column.write(metric.mean)
    if metric.high is not None and column.metric not in _COSTS:
        text = f"{text.removesuffix(' %')} ± {column.write(metric.high - metric.mean)}"
    null = row.null.get(column.metric)
    return text if null is None else f"{text} (alike: {column.write(null)})"


def flag_text(row: Row, seeds: int) -> str:
    """Return the flags, with the number of seeds that raised each where not all did."""
    return ", ".join(flag if count == seeds else f"{flag} ({count} of {seeds})" for flag, count in row.flags.items())


def place_text(row: Row) -> str:
    """Return the place, marked = where the interval overlaps the first one's."""
    return "" if row.place is None else f"{row.place}{'=' if row.as_good_as_first and row.place > 1 else ''}"


def summary_line(comparison: Comparison) -> str:
    """Return in a sentence what was forgotten."""
    total = comparison.num_forget + comparison.num_retain
    gone = comparison.clients - comparison.clients_left
    left = f"; {gone} of {comparison.clients} clients lost all their data" if gone else ""
    return f"{comparison.forget}: {comparison.num_forget:,} of {total:,} training samples{left}"
