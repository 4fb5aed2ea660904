"""The methods of a request, each with its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedsim.config.run import HistoryConfig
from fedsim.errors import FedsimError, nearest
from fedsim.federated.registry import declared
from fedsim.own_metrics import OwnMetric, load_own_metrics
from fedsim.plugins import allow, plugin_of
from fedsim.privacy.ledger import Ledger
from unlearning.api.registry import RETRAIN, Method, UnlearningConfig, load_unlearning
from unlearning.evaluation.catalogue import METRICS
from unlearning.pipeline.apply import options_of, refusal
from unlearning.pipeline.forget import Request
from unlearning.pipeline.judgement import Kind
from unlearning.pipeline.privacy import breach, require_kept

_BASELINE = "finetune"


@dataclass(frozen=True)
class Entry:
    """A method with its options, and whether it was requested or is a baseline."""

    method: Method
    options: UnlearningConfig
    kind: Kind


class WantedModels(NamedTuple):
    """The methods that the caller requests."""

    methods: list[str]
    """Names, or only "all"; empty if only the oracle was requested."""
    oracle: bool
    """Whether to compare with retraining."""
    stem: str
    """Start of the name of the outcome's folder."""


def asked_for(methods: Sequence[str], compare: str | None) -> WantedModels:
    """Return the methods that these names request; plugin files are loaded.

    Raises
    ------
    FedsimError
        If a method does not exist, or nothing is requested.
    """
    if compare not in (None, RETRAIN):
        raise FedsimError(f"--compare {compare}: is not a reference; {nearest(compare or '', [RETRAIN])}")
    names = list(dict.fromkeys(methods))
    if not names:
        raise FedsimError("--method: must name a method, several joined with commas, or all")
    asked = [name for name in names if name != RETRAIN]
    for name in asked:
        allow(name, "--method")
    asked = [load_unlearning(name).name if plugin_of(name) else name for name in asked]
    for name in asked if asked != ["all"] else []:
        load_unlearning(name)  # raise for unknown names before the data is read
    return WantedModels(asked, RETRAIN in names or compare is not None, "-".join(asked) or RETRAIN)


def own_metrics(names: Sequence[str]) -> Mapping[str, OwnMetric]:
    """Return the user's own metrics of forgetting, by name.

    Raises
    ------
    FedsimError
        If there is no such function, or its name is that of a built-in metric.
    """
    for name in names:
        allow(name, "--metric")
    found = load_own_metrics(names, "--metric", "forgetting_metrics")
    if clash := sorted(found.keys() & METRICS.keys()):
        raise FedsimError(f"--metric: {clash[0]} is a built-in metric of fedsim; rename yours")
    return found


def entries_of(
    asked: Sequence[str], request: Request, history: HistoryConfig, overrides: Mapping[str, Any]
) -> tuple[dict[str, Entry], list[str]]:
    """Return the methods to run, including the baseline, and why other methods of `all` cannot run."""
    names = sorted(declared("unlearning", "unlearning")) if asked == ["all"] else list(asked)
    methods = {name: load_unlearning(name) for name in dict.fromkeys([*names, _BASELINE])}
    given = _sorted_options(overrides, names, methods)
    entries, notes = {}, []
    for name, method in methods.items():
        reason = refusal(method, request, history)
        if reason is None and asked == ["all"] and (method.needs.attribution or method.needs.oracle):
            reason = f"{name} trains many models; request it by name"
        if reason is None:
            asked_for = name in names and (name != _BASELINE or asked != ["all"])
            entries[name] = Entry(
                method, options_of(method, given[name], request.kind), "method" if asked_for else "baseline"
            )
        elif asked != ["all"] and name in names:
            raise FedsimError(f"--method {name}: {reason}; fedsim list unlearning shows what each can do")
        else:
            notes.append(f"left out: {reason}")
    if names and not any(entry.kind == "method" for entry in entries.values()):
        raise FedsimError(f"--method all: no method can serve --forget {request.spec} ({'; '.join(notes)})")
    return entries, notes


def private_entries(
    entries: dict[str, Entry], inherited: Ledger | None, asked: Sequence[str], notes: list[str]
) -> dict[str, Entry]:
    """Return the methods that keep the run's privacy promise; refuse if a method requested by name does not."""
    kept = {}
    for name, entry in entries.items():
        if (reason := breach(entry.method, inherited)) is None:
            kept[name] = entry
        elif name in asked:
            require_kept(entry.method, inherited, no_privacy=False)
        else:
            notes.append(f"left out: {reason} (--no-privacy allows it)")
    if asked and not any(entry.kind == "method" for entry in kept.values()):
        raise FedsimError(f"--method all: no method keeps what the run promises ({'; '.join(notes)})")
    return kept


def _sorted_options(
    overrides: Mapping[str, Any], asked: Sequence[str], methods: Mapping[str, Method]
) -> dict[str, dict[str, Any]]:
    """Return the given options of each method."""
    given: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for key, value in overrides.items():
        name, dot, option = key.partition(".")
        if not dot and len(asked) == 1:
            name, option = asked[0], key
        elif not dot or name not in methods:
            raise FedsimError(f"--set {key}: must be METHOD.option=value; {nearest(name, methods)}")
        given[name][option] = value
    return given
