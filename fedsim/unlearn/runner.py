"""From a run and a request to models that have forgotten, beside those that bear witness, in a folder of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedsim.errors import FedsimError, RunFailed, nearest
from fedsim.models.base import Classifier
from fedsim.progress import Progress
from fedsim.randomness import generator
from fedsim.registry import declared
from fedsim.unlearn.apply import options_of, refusal, unlearn_with
from fedsim.unlearn.comparison import Comparison, Kind, Row, distributional, make_row, ranked, with_metrics
from fedsim.unlearn.forget import Request, parse_forget
from fedsim.unlearn.measure import Measured, measure
from fedsim.unlearn.methods import Method, UnlearningConfig, load_unlearning
from fedsim.unlearn.oracle import FOLDERS, Trained, retrained, training_seconds
from fedsim.unlearn.outcome import Outcome, write_outcome
from fedsim.unlearn.roles import Roles, assign_roles
from fedsim.unlearn.source import Source, open_source
from unlearning.evaluation.constant_predictor import constant_logits

_BASELINE = "finetune"
_CONSTANT = "constant predictor"


@dataclass(frozen=True)
class _Entry:
    """A method with its options, and whether it was asked for or stands beside."""

    method: Method
    options: UnlearningConfig
    kind: Kind


@dataclass
class _Models:
    """What one contestant came to under each seed."""

    kind: Kind
    first: Classifier | None = None
    runs: list[Measured] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, model: Classifier, measured: Measured, seconds: float) -> None:
        self.first = self.first or model
        self.runs.append(measured)
        self.seconds.append(seconds)


def unlearn(
    run: str | Path,
    methods: Sequence[str],
    forget: str,
    *,
    compare: str | None = None,
    seeds: int = 1,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Make a finished run forget, and return what came of it; its folder is under `unlearned/` of the run.

    Parameters
    ----------
    run
        A run folder.
    methods
        Names of unlearning methods, or "all": those that can serve the request.
    forget
        What to forget, see `fedsim.unlearn.forget`.
    compare
        "retrain": beside a model retrained from scratch without it, which ranks them.
    seeds
        Repetitions: each with an original, an oracle and methods of its own seed.
    name
        Of the new folder; by default method and request.
    overrides
        Options: {"method.option": value}, or {"option": value} for one method.
    force
        Replace the outcome of that name.
    progress
        Shows how training goes.
    say
        Gets a line for every step.

    Raises
    ------
    FedsimError
        If the run, its data, the request or an option is bad; nothing was written then.
    """
    path = Path(run)
    if compare not in (None, "retrain"):
        raise FedsimError(f"--compare {compare}: cannot be compared with; {nearest(compare or '', ['retrain'])}")
    if seeds < 1:
        raise FedsimError(f"--seeds: must be at least 1, got {seeds}")
    asked = list(dict.fromkeys(methods))
    for method in asked if asked != ["all"] else []:
        load_unlearning(method)  # a name that does not exist: before the data is read
    source = open_source(path)
    request = parse_forget(forget, source.data, source.config.seed)
    entries, notes = _entries(asked, request, overrides or {})
    folder = _folder_for(path / "unlearned", name, asked, forget, force)
    dtype = source.model.classifier.weight.dtype
    roles = assign_roles(source.data, request, source.config.seed, source.device, dtype)
    contest = _Contest(source, request, roles, entries, notes, say, progress)
    for number in range(seeds):
        contest.run_seed(source.config.seed + number, oracle=compare is not None)
    outcome = contest.outcome(folder, seeds)
    write_outcome(outcome, source, request, {name: entry.options for name, entry in entries.items()})
    return outcome


class _Contest:
    """All models of one request, trained, unlearned and measured seed by seed."""

    def __init__(
        self,
        source: Source,
        request: Request,
        roles: Roles,
        entries: Mapping[str, _Entry],
        notes: list[str],
        say: Callable[[str], None],
        progress: Progress | None,
    ) -> None:
        self.source, self.request, self.roles, self.entries = source, request, roles, entries
        self.notes, self.say, self.progress = notes, say, progress
        self.left = source.data.without(request.rows)
        self.models: dict[str, _Models] = {}

    def run_seed(self, seed: int, *, oracle: bool) -> None:
        """Add a model of this seed to every contestant."""
        original = self._original(seed)
        against: Measured | None = None
        if oracle:
            self.say(f"seed {seed}: the oracle, retrained from scratch without {self.request.spec}")
            trained = retrained(self.source, self.left, seed, FOLDERS[0], self.progress)
            against = self._measure(trained.model)
            against = self._measure(trained.model, against)
            self._add("oracle", "oracle", trained, against)
        self._add("original", "original", original, self._measure(original.model, against))
        for name, entry in self.entries.items():
            self._apply(name, entry, original.model, seed, against)
        assert self.roles.retain.y is not None
        constant = constant_predictor(original.model, self.roles.retain.y)
        measured = self._measure(constant, against)
        self.models.setdefault(_CONSTANT, _Models("baseline")).add(constant, measured, float("nan"))

    def _original(self, seed: int) -> Trained:
        source = self.source
        if seed == source.config.seed:
            return Trained(source.folder.path, source.model, training_seconds(source.folder, source.data))
        self.say(f"seed {seed}: an original of this seed")
        return retrained(source, source.data, seed, FOLDERS[1], self.progress)

    def _apply(self, name: str, entry: _Entry, original: Classifier, seed: int, against: Measured | None) -> None:
        if seed > self.source.config.seed and name not in self.models:
            return  # it failed before
        try:
            result = unlearn_with(entry.method, entry.options, original, self.roles, seed)
        except Exception as error:
            reason = " ".join(f"{name} failed ({type(error).__name__}: {error})".split())
            if sum(other.kind == "method" for other in self.entries.values()) == 1 and entry.kind == "method":
                raise RunFailed(f"{reason}; nothing was written") from error
            self.models.pop(name, None)
            self.notes.append(reason)
            self.say(reason)
            return
        self.say(f"seed {seed}: {name} took {result.seconds:.2f} s")
        measured = self._measure(result.model, against)
        self.models.setdefault(name, _Models(entry.kind)).add(result.model, measured, result.seconds)

    def _measure(self, model: Classifier, against: Measured | None = None) -> Measured:
        return measure(model, self.roles, self.source.config.seed, against)

    def _add(self, name: str, kind: Kind, trained: Trained, measured: Measured) -> None:
        self.models.setdefault(name, _Models(kind)).add(trained.model, measured, trained.seconds)

    def outcome(self, folder: Path, seeds: int) -> Outcome:
        """Return all of it, ranked."""
        rows = [self._row(name, models) for name, models in self.models.items()]
        if not any(row.kind == "method" for row in rows):
            raise RunFailed(f"no method came through: {'; '.join(self.notes)}")
        before, after = (data.partition.sizes for data in (self.source.data, self.left))
        counts = self.source.data.class_counts - self.left.class_counts
        comparison = Comparison(
            run=str(self.source.folder.path), forget=self.request.spec, kind=self.request.kind,
            num_forget=len(self.request.rows), num_retain=len(self.request.retain),
            num_matched=len(self.roles.matched), clients_left=int((after > 0).sum()), clients=int((before > 0).sum()),
            forgotten_classes=counts.tolist(), seeds=seeds, rows=ranked(rows), notes=self.notes,
        )  # fmt: skip
        firsts = {name: (models.first, models.runs[0]) for name, models in self.models.items() if models.first}
        return Outcome(folder, comparison, firsts)

    def _row(self, name: str, models: _Models) -> Row:
        row = make_row(name, models.kind, models.runs, models.seconds)
        oracle = self.models.get("oracle")
        if oracle is None or oracle is models:
            return row
        more = distributional(models.runs, oracle.runs, generator(self.source.config.seed, "distributional"))
        if row.mean("seconds") > 0:
            more["speedup"] = sum(oracle.seconds) / sum(models.seconds)
        return with_metrics(row, more)


@torch.no_grad()
def constant_predictor(model: Classifier, retain_labels: torch.Tensor) -> Classifier:
    """Return a copy that answers everything with the class frequencies of what is kept."""
    constant = copy.deepcopy(model)
    logits = constant_logits(retain_labels.cpu().numpy(), model.classifier.out_features, 1)[0]
    constant.classifier.weight.zero_()
    constant.classifier.bias.copy_(torch.from_numpy(logits))
    return constant


def _entries(
    asked: Sequence[str], request: Request, overrides: Mapping[str, Any]
) -> tuple[dict[str, _Entry], list[str]]:
    """Return the methods to run, the baseline among them, and why others that `all` names cannot."""
    names = sorted(declared("unlearning", "unlearning")) if asked == ["all"] else list(asked)
    if not names:
        raise FedsimError("--method: must name a method, several joined with commas, or all")
    methods = {name: load_unlearning(name) for name in dict.fromkeys([*names, _BASELINE])}
    given = _sorted_options(overrides, names, methods)
    entries, notes = {}, []
    for name, method in methods.items():
        if (reason := refusal(method, request)) is None:
            asked_for = name in names and (name != _BASELINE or asked != ["all"])
            entries[name] = _Entry(method, options_of(method, given[name]), "method" if asked_for else "baseline")
        elif asked != ["all"] and name in names:
            raise FedsimError(f"--method {name}: {reason}; fedsim list unlearning shows what each can do")
        else:
            notes.append(f"left out: {reason}")
    return entries, notes


def _sorted_options(
    overrides: Mapping[str, Any], asked: Sequence[str], methods: Mapping[str, Method]
) -> dict[str, dict[str, Any]]:
    """Return the options given for each method."""
    given: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for key, value in overrides.items():
        name, dot, option = key.partition(".")
        if not dot and len(asked) == 1:
            name, option = asked[0], key
        elif not dot or name not in methods:
            raise FedsimError(f"--set {key}: must be METHOD.option=value; {nearest(name, methods)}")
        given[name][option] = value
    return given


def _folder_for(parent: Path, name: str | None, asked: Sequence[str], spec: str, force: bool) -> Path:
    """Return the folder of a new outcome, having refused one that may not be written to."""
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{'-'.join(asked)}-{spec}")[:80].strip("-.")
        names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
        return next(folder for other in names if not (folder := parent / other).exists())
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name in FOLDERS:
        raise FedsimError(f"--name {name}: must be letters, digits, '.', '_' and '-', and none of {', '.join(FOLDERS)}")
    folder = parent / name
    if folder.exists() and not force:
        raise FedsimError(f"{folder}: exists already; choose another --name, or replace it with --force")
    return folder
