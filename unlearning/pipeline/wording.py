"""What a comparison says, alike on the terminal and in the report."""

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
    "The original and retraining do not differ by more than retrained models differ among themselves: this run has not "
    "memorised what is to be forgotten, so no method can show anything. Train longer, forget more, or plant what must "
    "be remembered (data.canaries; fedsim run --config forgetting_digits)."
)


def columns(comparison: Comparison, *, brief: bool) -> list[Metric]:
    """Return the metrics of which some row has a value; the few of the first table, if `brief`."""
    known = {name for row in comparison.rows for name in row.metrics}
    own = [
        Metric(name, name.replace("_", " "), sentence, "oracle", -math.inf, None, "", brief=True)
        for name, sentence in comparison.own_metrics.items()
    ]
    return [one for one in [*METRICS.values(), *own] if one.name in known and (one.brief or not brief)]


def federation_costs(comparison: Comparison) -> list[Metric]:
    """Return the metrics that tell what a model cost the federation, if some row has a value."""
    return [metric for metric in columns(comparison, brief=False) if metric.name in FEDERATION_COSTS]


def groups(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    """Return the rows in groups with their titles: references, then methods by where they run."""
    references = [row for row in comparison.rows if row.kind != "method"]
    found = [("", references)]
    for where, title in WHERE.items():
        rows = [row for row in comparison.rows if row.kind == "method" and row.where == where]
        found += [(title, rows)] if rows else []
    return found


def cell(row: Row, metric: Metric, *, spread: bool = True) -> str:
    """Return a row's value, with half of its 95 % interval if `spread`, and what alike models would give."""
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
    """Return a table, its head first, of what is known of each request after each; nothing for a single request."""
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
    "Accuracy on what each request forgot, on what is kept and on the test samples, after each request, first seed. "
    "What is forgotten stays at the oracle's: above it, it has come back."
)


def verdict_text(row: Row) -> str:
    """Return the verdict, or the flags where there is none."""
    if row.verdict is not None:
        return row.verdict.removesuffix(" here")
    return ABSENT


def flag_text(row: Row, seeds: int) -> str:
    """Return the flags, with the number of seeds that raised each where not all did."""
    return ", ".join(flag if count == seeds else f"{flag} ({count} of {seeds})" for flag, count in row.flags.items())


def place_text(row: Row, comparison: Comparison) -> str:
    """Return the place, marked = where others of its group share it."""
    if row.place is None:
        return ""
    alone = row.kind == "method"
    rivals = [other for other in comparison.rows if not alone or other.kind != "method" or other.where == row.where]
    shared = sum(other.place == row.place for other in rivals) > 1
    return f"{row.place}{'=' if shared else ''}"


def conclusion(comparison: Comparison) -> str:
    """Return in a sentence or two what came of the request."""
    original = next((row for row in comparison.rows if row.kind == "original"), None)
    if not comparison.is_ranked:
        return "No verdict: --compare retrain adds the models to be compared with."
    if not comparison.is_judged:
        return "No verdict: one seed shows no spread; --seeds 3 gives one."
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
    """Return how rows are ordered and what a tie is."""
    if not comparison.is_ranked:
        return "Not ranked: there is no oracle (--compare retrain)."
    gap = "Gap: mean distance to the oracle of Forget, Retain, Test and MIA, in points."
    if comparison.floor is None:
        return gap
    return f"{gap} Within {comparison.floor:.1f} points, the floor between retrained models, is a tie."


def summary_line(comparison: Comparison) -> str:
    """Return in a sentence what was forgotten."""
    total = comparison.num_forget + comparison.num_retain
    gone = comparison.clients - comparison.clients_left
    left = f"; {gone} of {comparison.clients} clients lost all their data" if gone else ""
    return f"{comparison.forget}: {comparison.num_forget:,} of {total:,} training samples{left}"
