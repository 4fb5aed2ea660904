"""Names, groups, order and formats of metrics, options and times, shared by plots, report and terminal."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from fedsim.runs.folder import RunFolder

GROUPS: Final = ("Global", "Clients", "Unseen clients", "Validation", "Other heads", "Stages", "Training", "Other")

ERRORS: Final = {"mse": "Mean squared error", "excess_risk": "Excess risk"}
"""Error measures for regression; lower is better."""

ABSENT: Final = "–"
"""Placeholder for a missing value."""

_KNOWN_HEADS: Final = {
    "global": "Global", "clients": "Clients", "unseen": "Unseen clients", "validation": "Validation",
    "train": "Training", "stages": "Stages",
}  # fmt: skip
_ORDER: Final = ("accuracy", "balanced_accuracy", "accuracy_many", "accuracy_medium", "accuracy_few", "f1_macro", "auc")
_SCORES: Final = {"f1_macro": "F1 (macro)", "auc": "AUC"}
_KEY_OPTIONS: Final = {
    "strategy": "Strategy",
    "data.name": "Data",
    "data.imbalance_factor": "Long tail",
    "data.partition": "Partition",
    "data.stages": "Stages",
    "model": "Model",
    "clients": "Clients",
    "cohort": "Cohort",
    "training": "Training",
    "engine.name": "Engine",
    "seed": "Seed",
}
_KEY_LENGTH: Final = 90


def split_name(name: str) -> tuple[str, str]:
    """Return the head and the quantity of a metric: `global_psi/accuracy` is ("global_psi", "accuracy")."""
    head, _, quantity = name.rpartition("/")
    return head, quantity


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """Return {common prefix: metrics} for metrics with a common plot, such as `train/parts:a` and `train/parts:b`."""
    found: dict[str, list[str]] = {}
    for name in names:
        head, quantity = split_name(name)
        family, colon, _ = quantity.partition(":")
        if colon:
            found.setdefault(f"{head}/{family}", []).append(name)
    return found


def group_of(name: str) -> str:
    """Return the member of `GROUPS` under which a metric is listed."""
    head, quantity = split_name(name)
    if head in _KNOWN_HEADS:
        return _KNOWN_HEADS[head]
    measured = "accuracy" in quantity or "loss" in quantity or quantity in _SCORES
    return "Other heads" if head and measured else "Other"


def group_metrics(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the metrics by group, in the order of `GROUPS`, accuracies first; empty groups are left out."""
    ordered = sorted(set(names), key=_sort_key)
    groups = {group: [name for name in ordered if group_of(name) == group] for group in GROUPS}
    return {group: members for group, members in groups.items() if members}


def _sort_key(name: str) -> tuple[str, int, int, str]:
    head, quantity = split_name(name)
    kind = 0 if "accuracy" in quantity or quantity in _SCORES else 1 if "loss" in quantity else 2
    return head, kind, _ORDER.index(quantity) if quantity in _ORDER else len(_ORDER), quantity


def metric_label(name: str) -> str:
    """Return a metric's name within its group, such as "Accuracy (many)", "global_psi: Loss" or "Chosen by: nobody"."""
    head, quantity = split_name(name)
    base, _, shots = quantity.rpartition("_")
    words = f"{base} ({shots})" if base == "accuracy" else ERRORS.get(quantity, quantity)
    words = words.replace("_", " ").replace(":", ": ")
    words = _SCORES.get(quantity, words[:1].upper() + words[1:])
    return f"{head}: {words}" if head and head not in _KNOWN_HEADS else words


def direction(name: str) -> Literal["higher", "lower"] | None:
    """Return which direction of a metric is better; None if runs cannot be ranked by it.

    Training losses are objectives that differ between methods, and on forgotten data neither direction is better.
    """
    head, quantity = split_name(name)
    if head.startswith(("train", "forget")):
        return None
    if "accuracy" in quantity or quantity in _SCORES:
        return "higher"
    if quantity == "r2":
        return "higher"
    return "lower" if "loss" in quantity or "forgetting" in quantity or quantity in ERRORS else None


def format_metric(name: str, value: float) -> str:
    """Return a metric's value as text: accuracies in percent, others with four digits."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if "accuracy" in split_name(name)[1]:
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def best_of(name: str, values: list[float]) -> list[bool]:
    """Return the runs that are best in a metric, to its displayed digits; empty if all are equal."""
    way, known = direction(name), [value for value in values if math.isfinite(value)]
    if way is None or len(known) < 2:
        return [False] * len(values)
    best = format_metric(name, max(known) if way == "higher" else min(known))
    marks = [math.isfinite(value) and format_metric(name, value) == best for value in values]
    return marks if sum(marks) < len(known) else [False] * len(values)


def format_duration(seconds: float) -> str:
    """Return a time span as text: `8.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_option(value: Any) -> str:
    """Return a value of the configuration in YAML syntax, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_option(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {format_option(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def key_options(folder: RunFolder) -> dict[str, str]:
    """Return the main options of a run's configuration, by label: method, data, partition, model, clients, ..."""
    found = {label: folder.option(key) for key, label in _KEY_OPTIONS.items()}
    if folder.summary and folder.summary.engine:
        found["Engine"] = _engine(folder.summary.engine)  # the engine that "auto" chose
    if folder.summary and folder.summary.clients_by:
        found["Partition"] = f"natural (by {folder.summary.clients_by})"
    if found["Long tail"] == 1:
        found["Long tail"] = None
    return {label: _describe(value) for label, value in found.items() if value is not None}


def _engine(engine: Mapping[str, Any] | str) -> str:
    if isinstance(engine, str):
        return engine
    name, device = engine.get("name", ABSENT), engine.get("device")
    return f"{name} on {device}" if device else str(name)


def _describe(value: Any) -> str:
    """Return `name (option value, ...)` of a part, without its own parts and unset options."""
    if not isinstance(value, Mapping):
        return format_option(value)
    plain = [(k, v) for k, v in value.items() if k != "name" and v is not None and not isinstance(v, Mapping)]
    options = ", ".join(f"{key} {format_option(item)}" for key, item in plain)
    if len(options) > _KEY_LENGTH:
        options = options[:_KEY_LENGTH].rsplit(",", 1)[0] + ", …"
    if "name" not in value:
        return options
    return f"{value['name']} ({options})" if options else str(value["name"])


def rounds_text(folder: RunFolder) -> str:
    """Return `12 of 40`, or `12` if the run does not record the number of requested rounds."""
    return str(folder.rounds_done) if folder.rounds is None else f"{folder.rounds_done} of {folder.rounds}"
