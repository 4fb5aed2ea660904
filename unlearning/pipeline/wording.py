"""Texts about a comparison, shared by the terminal and the report."""

from __future__ import annotations

import math

from fedsim.report.wording import ABSENT
from unlearning.api.registry import Where
from unlearning.evaluation.catalogue import FEDERATION_COSTS, METRICS
from unlearning.evaluation.metric import Metric, percent
from unlearning.pipeline.comparison import Comparison, Row

WHERE: dict[Where, str] = {
    "federated": "Federated: data stay with the clients",
    "central": "Central: pools the clients' raw data on the server",
}

ADVICE = (
    "The original differs from retrained models no more than retrained models differ from each other. This run has not "
    "memorised the samples to forget, so it cannot show whether a method works. Train longer, forget more samples, or "
    "plant canaries, which a model must memorise (data.canaries; fedsim run --config forgetting_digits)."
)


def columns(comparison: Comparison, *, brief: bool) -> list[Metric]:
    """Return the metrics for which at least one row has a value; if `brief`, only those of the first table."""
    known = {name for row in comparison.rows for name in row.metrics}
    own = [
        Metric(name, name.replace("_", " "), sentence, "oracle", -math.inf, None, "", brief=True)
        for name, sentence in comparison.own_metrics.items()
    ]
    return [one for one in [*METRICS.values(), *own] if one.name in known and (one.brief or not brief)]


def federation_costs(comparison: Comparison) -> list[Metric]:
    """Return the metrics of a model's costs for the federation for which at least one row has a value."""
    return [metric for metric in columns(comparison, brief=False) if metric.name in FEDERATION_COSTS]


def groups(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    """Return the rows in groups with titles: references, then federated methods, then central ones."""
    references = [row for row in comparison.rows if row.kind != "method"]
    found = [("", references)]
    for where, title in WHERE.items():
        rows = [row for row in comparison.rows if row.kind == "method" and row.where == where]
        found += [(title, rows)] if rows else []
    return found


def cell(row: Row, metric: Metric, *, spread: bool = True) -> str:
    """Return a row's value; with `spread` also half of its 95 % interval, and its value for equal distributions."""
    value = row.metrics.get(metric.name)
    if value is None:
        return ABSENT
    text = metric.write(value.mean)
    if not spread:
        return text.removesuffix(" %")
    if value.high is not None and not metric.cost:
        text = f"{text.removesuffix(' %')} ± {metric.write(value.high - value.mean)}"
    null = row.null.get(metric.name)
    return text if null is None else f"{text} (alike: {metric.write(null)})"


def chain_rows(comparison: Comparison) -> list[list[str]]:
    """Return a table of the accuracies on each request's samples after each request; empty for a single request."""
    specs = list({len(step.forgotten): step.spec for step in comparison.chain}.values())
    if len(specs) < 2:
        return []
    rows = []
    for step in comparison.chain:
        known = [ABSENT if value is None else percent(value) for value in step.forgotten]
        after = "before" if step.model == "original" else step.spec
        rest = [ABSENT] * (len(specs) - len(known))
        rows.append([after, step.model, *known, *rest, percent(step.retain), percent(step.test)])
    return [["After", "Model", *specs, "Kept", "Test"], *rows]


CHAIN = (
    "Accuracy on each request's samples, on the kept samples and on the test samples, after each request, first seed. "
    "Accuracy on forgotten samples should stay at the oracle's: if it is higher, the model remembers them again."
)


def verdict_text(row: Row) -> str:
    """Return the verdict in short form, or a dash if there is none."""
    if row.verdict is not None:
        return row.verdict.removesuffix(" here")
    return ABSENT


def flag_text(row: Row, seeds: int) -> str:
    """Return the flags; a flag that not all seeds raised has the number of its seeds."""
    return ", ".join(flag if count == seeds else f"{flag} ({count} of {seeds})" for flag, count in row.flags.items())


def place_text(row: Row, comparison: Comparison) -> str:
    """Return the rank, marked with = if others of its group share it."""
    if row.place is None:
        return ""
    alone = row.kind == "method"
    rivals = [other for other in comparison.rows if not alone or other.kind != "method" or other.where == row.where]
    shared = sum(other.place == row.place for other in rivals) > 1
    return f"{row.place}{'=' if shared else ''}"


def conclusion(comparison: Comparison) -> str:
    """Return the result of the request in a sentence or two."""
    original = next((row for row in comparison.rows if row.kind == "original"), None)
    if not comparison.is_ranked:
        return "No verdict: --compare retrain adds the retrained models that it needs."
    if not comparison.is_judged:
        return "No verdict: one seed does not show the spread; use --seeds 3."
    if original is not None and original.verdict == "cannot be told here":
        return f"Cannot be told here. {ADVICE}"
    best = comparison.best
    verdict = f"{best.name}: {best.verdict}. {best.why[:1].upper()}{best.why[1:]}."
    asked = [row for row in comparison.rows if row.kind == "method"]
    if len(asked) > 1:
        good = sum(row.verdict == "forgotten" for row in asked)
        verdict = f"{good} of {len(asked)} methods have forgotten. Delivered: {verdict}"
    return verdict


def ranking_line(comparison: Comparison) -> str:
    """Return a line on the order of rows, and on ties."""
    if not comparison.is_ranked:
        return "Not ranked: there is no oracle (--compare retrain)."
    gap = "Gap: mean distance to the oracle of Forget, Retain, Test and MIA, in points."
    if comparison.floor is None:
        return gap
    return f"{gap} A difference within {comparison.floor:.1f} points, the floor between retrained models, is a tie."


def summary_line(comparison: Comparison) -> str:
    """Return a line on the request and the number of its samples."""
    total = comparison.num_forget + comparison.num_retain
    gone = comparison.clients - comparison.clients_left
    left = f"; {gone} of {comparison.clients} clients lost all their data" if gone else ""
    return f"{comparison.forget}: {comparison.num_forget:,} of {total:,} training samples{left}"
