"""The columns of a comparison, alike on the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedsim.report.wording import ABSENT, format_duration
from fedsim.unlearn.comparison import Comparison, Row


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _plain(value: float) -> str:
    return f"{value:.3f}"


@dataclass(frozen=True)
class Column:
    """One metric as people read it."""

    metric: str
    head: str
    write: Callable[[float], str]
    meaning: str
    brief: bool = False
    """Whether it is in the terminal's table too."""


COLUMNS = (
    Column("forget/accuracy", "Forget acc.", _percent, "accuracy on the samples to forget (FA; UA is 1 - FA)", True),
    Column("retain/accuracy", "Retain acc.", _percent, "accuracy on the training samples that stay (RA)", True),
    Column("test/accuracy", "Test acc.", _percent, "accuracy on the test set (TA)", True),
    Column("forget/loss", "Forget loss", _plain, "mean cross-entropy on the samples to forget, nats"),
    Column("unseen/loss", "Unseen loss", _plain, "the same on never-seen samples of the same classes"),
    Column("mia/auc", "MIA AUC", _plain, "loss attack, forgotten against never-seen: above 0.5 remembered", True),
    Column("mia/threshold", "MIA thr.", _plain, "balanced accuracy of the best loss threshold"),
    Column("mia/logistic", "MIA log.", _plain, "accuracy of a logistic attack on the loss"),
    Column("relearn/steps", "Relearn", lambda v: f"{v:.0f}", "SGD steps until the forgotten loss is at most 0.1"),
    Column("gap/mean", "Gap (pp)", _points, "mean distance to the oracle of FA, RA, TA and MIA log.: the rank", True),
    Column("tug_of_war", "ToW", _plain, "(1 - |dFA|)(1 - |dRA|)(1 - |dTA|) against the oracle; 1 is best"),
    Column("js/forget", "JS", _plain, "Jensen-Shannon distance of outputs to the oracle's on forgotten samples, nats"),
    Column("activation/forget", "Act. dist.", _plain, "mean Euclidean distance of probabilities to the oracle's"),
    Column("relearn/ratio", "AIN", _plain, "relearn steps over the oracle's: below 1 there is residual memory"),
    Column("nomus", "NoMUS", _plain, "(TA + 1 - 2|MIA log. - 1/2|)/2; a constant predictor may win it"),
    Column("klom/forget", "KLOM", _plain, "divergence of margins from N oracles on forgotten samples"),
    Column("klom/null", "KLOM null", _plain, "KLOM of equal distributions at this number of models"),
    Column("u_lira/forget", "U-LiRA", _plain, "accuracy of telling unlearned from never-trained models; 0.5 is best"),
    Column("epsilon/forget", "F score", _plain, "forgetting quality of the NeurIPS-2023 challenge; 0.2 is good"),
    Column("seconds", "Time", format_duration, "of the method alone; of all training for original and oracle", True),
    Column("speedup", "× faster", lambda v: f"{v:.1f}", "retraining time over the method's", True),
)


def columns(comparison: Comparison, *, brief: bool) -> list[Column]:
    """Return the columns in which some row has a value."""
    known = {name for row in comparison.rows for name in row.metrics}
    return [column for column in COLUMNS if column.metric in known and (column.brief or not brief)]


def cell(row: Row, column: Column) -> str:
    """Return a row's value, with the half-width of its 95 % interval where there are several seeds."""
    metric = row.metrics.get(column.metric)
    if metric is None:
        return ABSENT
    text = column.write(metric.mean)
    if metric.high is None or column.metric == "seconds":
        return text
    half = metric.high - metric.mean
    return text if math.isclose(half, 0, abs_tol=1e-12) else f"{text} ± {column.write(half).removesuffix(' %')}"


def flag_text(row: Row, seeds: int) -> str:
    """Return the flags, with the number of seeds that raised each where not all did."""
    return ", ".join(flag if count == seeds else f"{flag} ({count} of {seeds})" for flag, count in row.flags.items())


def summary_line(comparison: Comparison) -> str:
    """Return in a sentence what was forgotten."""
    total = comparison.num_forget + comparison.num_retain
    gone = comparison.clients - comparison.clients_left
    left = f"; {gone} of {comparison.clients} clients lost all their data" if gone else ""
    return f"{comparison.forget}: {comparison.num_forget:,} of {total:,} training samples{left}"
