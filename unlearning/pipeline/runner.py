"""From a run and a request to models that have forgotten, beside those that bear witness, in a folder of their own."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.config.machine import MACHINE_SETTINGS
from fedsim.config.run import HistoryConfig
from fedsim.errors import FedsimError, InUse, RunFailed, nearest
from fedsim.federated.registry import declared
from fedsim.models.base import Classifier
from fedsim.plugins import allow, plugin_of
from fedsim.privacy.ledger import Ledger
from fedsim.randomness import generator
from fedsim.report.wording import format_duration
from fedsim.runs.folder import RunFolder
from fedsim.runs.progress import Progress
from fedsim.runs.relocate import MOVED
from fedsim.runs.reserve import held, sweep, temporary_for
from unlearning.api.federation import Federation, size_mb
from unlearning.api.registry import RETRAIN, Method, UnlearningConfig, load_unlearning
from unlearning.pipeline.apply import Unlearned, options_of, refusal, unlearn_federated, unlearn_with
from unlearning.pipeline.comparison import Comparison, make_rows, noise_floor
from unlearning.pipeline.deletion import Deletion, deleted_before
from unlearning.pipeline.forget import Request, parse_in_sequence, straddling
from unlearning.pipeline.further import further_models
from unlearning.pipeline.judgement import Contestant, Kind
from unlearning.pipeline.measure import Measured, measure
from unlearning.pipeline.oracle import FOLDERS, MEMBERS, Trained, retrained, training_seconds
from unlearning.pipeline.outcome import Outcome, write_outcome
from unlearning.pipeline.privacy import breach, derived_ledger, ledger_of, require_kept
from unlearning.pipeline.references import constant_predictor, masked_head
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.signing import load_signer
from unlearning.pipeline.source import MARK, OUTCOME_NAME, Source, kept_model, open_source
from unlearning.pipeline.tuning import SEED_APART, tune

_BASELINE = "finetune"
_COMPARED_SEEDS = 3
"""Seeds of a comparison, unless said otherwise: fewer show no spread."""


@dataclass(frozen=True)
class _Entry:
    """A method with its options, and whether it was asked for or stands beside."""

    method: Method
    options: UnlearningConfig
    kind: Kind


def unlearn(
    run: str | Path,
    methods: Sequence[str],
    forget: str,
    *,
    then: Sequence[str] = (),
    compare: str | None = None,
    seeds: int | None = None,
    models: int | None = None,
    name: str | None = None,
    purge: bool = False,
    sign: Path | None = None,
    command: str = "unlearning.pipeline.runner.unlearn",
    no_privacy: bool = False,
    overrides: Mapping[str, Any] | None = None,
    tune: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Make a finished run forget, and return what came of it; its folder is under `unlearned/` of the run.

    Parameters
    ----------
    run
        A run folder, or that of an earlier outcome: what it has forgotten is in no data of this request.
    methods
        Names of unlearning methods, or "all": those that can serve the request. "retrain" is the oracle itself.
    forget
        What to forget, see `unlearning.pipeline.forget`.
    then
        What to forget after that, one request at a time: every method goes on from what it made itself of the request
        before. Each request has an outcome of its own; the last one is returned.
    compare
        "retrain": beside a model retrained from scratch without it, which ranks them.
    seeds
        Repetitions: each with an original, an oracle and methods of its own seed; by default 3 with an oracle, else 1.
    models
        Originals, oracles and models of each method whose margins KLOM, U-LiRA and the verdict compare, `seeds` among
        them; implies an oracle. Those beyond the seeds are trained without run folders, and kept for later requests.
    name
        Of the new folder; by default method and request. Of later requests, with their number.
    purge
        In the end, delete for good: destroy all in the run's folder from which what was forgotten can be computed,
        make the run what came of the request, and write a receipt.
    sign
        The PEM file of an Ed25519 private key that signs the receipt.
    command
        What the receipt says was called.
    no_privacy
        Let a method end what the run promises: epsilon of its model is infinite then.
    overrides
        Options: {"method.option": value}, or {"option": value} for one method; and settings of this machine, such as
        {"engine.device": "cpu"}; and "data.root", the folder that the run's data have been moved to.
    tune
        Those of the methods whose options are searched for first, see `unlearning.pipeline.tuning`.
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
    if compare not in (None, RETRAIN):
        raise FedsimError(f"--compare {compare}: cannot be compared with; {nearest(compare or '', [RETRAIN])}")
    if seeds is not None and seeds < 1:
        raise FedsimError(f"--seeds: must be at least 1, got {seeds}")
    asked = list(dict.fromkeys(methods))
    if models is not None:
        compare = RETRAIN
        _require_models(models, seeds or _COMPARED_SEEDS, then)
    if not asked:
        raise FedsimError("--method: must name a method, several joined with commas, or all")
    signer = None if sign is None else load_signer(sign)
    stem = "-".join(asked)
    if RETRAIN in asked:
        asked.remove(RETRAIN)
        compare = RETRAIN
    for name_or_file in asked:
        allow(name_or_file, "--method")
    asked = [load_unlearning(name).name if plugin_of(name) else name for name in asked]
    stem = "-".join(asked) or stem
    for method in asked if asked != ["all"] else []:
        load_unlearning(method)  # a name that does not exist: before the data is read
    seeds = seeds or (_COMPARED_SEEDS if compare else 1)
    overrides = dict(overrides or {})
    machine = {key: overrides.pop(key) for key in (*MACHINE_SETTINGS, MOVED) if key in overrides}
    with _held_run(path, shared=not purge):  # others may read it, and nobody may replace it or go on with it
        source = open_source(path, machine)
        specs = [forget, *then]
        requests = parse_in_sequence(specs, source.data, source.config.seed, deleted_before(source))
        inherited = ledger_of(source)
        plans = [_entries(asked, request, source.history, overrides) for request in requests]
        if not no_privacy:
            plans = [(_private(entries, inherited, asked, notes), notes) for entries, notes in plans]
        deletion = Deletion.of(source, requests, command, signer) if purge else None
        before: _Contest | None = None
        outcomes = source.root / "unlearned"
        with contextlib.ExitStack() as stack:
            replays = stack.enter_context(_scratch(outcomes))
            names = [name if name is None or not number else f"{name}-{number + 1}" for number in range(len(specs))]
            folders = [
                stack.enter_context(_reserved(outcomes, own, f"{stem}-{spec}", force))
                for own, spec in zip(names, specs, strict=True)
            ]
            for number, (request, (entries, notes), folder) in enumerate(zip(requests, plans, folders, strict=True)):
                if before is not None:
                    source = open_source(folders[number - 1], machine)
                    say(f"then: {request.spec}")
                contest = _Contest(
                    source, request, entries, notes, say, progress, ledger_of(source), replays / str(number), before
                )
                for method in tune:
                    contest.tune(method)
                for seed in range(seeds):
                    contest.run_seed(source.config.seed + seed, oracle=compare is not None)
                if models is not None:
                    contest.add_models(range(source.config.seed + seeds, source.config.seed + models))
                outcome = contest.outcome(folder, seeds, tells_classes=not purge)
                used = {name: entry.options for name, entry in contest.entries.items()}
                write_outcome(outcome, source, request, used)
                before = contest
            if deletion is not None:
                deletion.carry_out(source, contest.left, outcome.folder, outcome.comparison, say)
        return outcome


@contextlib.contextmanager
def _held_run(path: Path, *, shared: bool) -> Iterator[None]:
    """Hold a run, or the outcome of a request and the run that it is of."""
    folder = RunFolder.open(path)
    root = path.resolve().parents[1] if MARK in folder.config else path
    with held(root, shared=shared), held(path, shared=True) if root != path else contextlib.nullcontext():
        yield


_scratches = itertools.count()


@contextlib.contextmanager
def _scratch(outcomes: Path) -> Iterator[Path]:
    """Give a place for what outcomes may need later, made by whoever writes there, and remove it in the end."""
    place = outcomes / f"replays-{os.getpid()}-{next(_scratches)}"
    with held(place):  # so that what a killed process left is told from what another one is at
        sweep(outcomes)
        try:
            yield temporary_for(place)
        finally:
            shutil.rmtree(temporary_for(place), ignore_errors=True)


class _Contest:
    """All models of one request, trained, unlearned and measured seed by seed.

    Parameters
    ----------
    scratch
        Where federated methods leave the history of what they replay, until it has its place.
    before
        The contest of the request before, in a sequence: methods go on from their own models of it.
    """

    def __init__(
        self,
        source: Source,
        request: Request,
        entries: Mapping[str, _Entry],
        notes: list[str],
        say: Callable[[str], None],
        progress: Progress | None,
        inherited: Ledger | None,
        scratch: Path,
        before: _Contest | None,
    ) -> None:
        self.inherited = inherited
        self.ledgers: dict[str, Ledger] = {}
        """Of each method's model of the first seed."""
        self.source, self.request, self.entries = source, request, entries
        self.notes, self.say, self.progress = notes, say, progress
        self.scratch, self.before = scratch, before
        self.roles = roles_of(source, request)
        self.left = source.data.without(request.rows)
        self.made: dict[tuple[int, str], Unlearned] = {}
        """What methods came to, by seed and name."""
        self.contestants: dict[str, Contestant] = {}
        self.firsts: dict[str, tuple[Classifier, Measured]] = {}
        self.asked = [name for name, entry in entries.items() if entry.kind == "method"]
        self.failed: set[str] = set()
        self.oracle: Path | None = None
        """The folder of the first seed's oracle."""

    def run_seed(self, seed: int, *, oracle: bool) -> None:
        """Add a model of this seed to every contestant."""
        original = self._original(seed)
        made = {name: self._apply(name, entry, original, seed) for name, entry in self.entries.items()}
        if self.asked and not any(made[name] for name in self.asked):
            raise RunFailed(f"no method came through: {'; '.join(self.notes)}; nothing was written")
        against: Measured | None = None
        if oracle:  # after the methods: they are quick to fail
            self.say(f"seed {seed}: the oracle, trained from scratch without {self.request.spec}")
            delivered = not self.asked and seed == self.source.config.seed
            trained = retrained(self.source, self.left, seed, FOLDERS[0], self.progress, history=delivered)
            self.oracle = self.oracle or trained.folder
            against = self._measure(trained.model, None, floors=not self.firsts)
            self._add("oracle", "oracle", trained.model, against, trained.seconds, self._costs_of_all())
            if self.inherited is not None:
                self.ledgers.setdefault("oracle", Ledger.read(trained.folder))
        measured = self._measure(original.model, against, floors="original" not in self.firsts)
        self._add("original", "original", original.model, measured, original.seconds)
        self.say(
            f"seed {seed}: attacks took {format_duration(measured.seconds)} on the original; as long on each model"
        )
        for name, result in made.items():
            if result is not None:
                self.made[seed, name] = result
                measured = self._measure(result.model, against)
                self._add(name, self.entries[name].kind, result.model, measured, result.seconds, result.costs)
        references = {
            "constant": constant_predictor(original.model, self.roles.retain),
            "masked": masked_head(original.model, self.roles.forget, self.roles.retain),
        }
        for name, model in references.items():
            if model is not None:
                self._add(name, "baseline", model, self._measure(model, against), math.nan)

    def add_models(self, seeds: Sequence[int]) -> None:
        """Add models of further seeds, of which margins alone are kept."""
        methods = {
            name: partial(self._applied, entry)
            for name, entry in self.entries.items()
            if name in self.contestants and not entry.method.needs.federation
        }
        for name in self.contestants.keys() & self.entries.keys() - methods.keys():
            self.notes.append(f"{name} works on run folders: its KLOM and U-LiRA are of the seeds alone")
        found = further_models(self.source, self.request, self.roles, seeds, methods, self.say)
        for name, models in found.items():
            self.contestants[name].further += models

    def _applied(self, entry: _Entry, original: Classifier, seed: int) -> Classifier:
        return unlearn_with(entry.method, entry.options, original, self.roles, seed).model

    def tune(self, name: str) -> None:
        """Search for the options of a method."""
        if name not in self.entries:
            raise FedsimError(f"--tune {name}: must be one of the methods; {nearest(name, self.entries)}")
        entry, seed = self.entries[name], self.source.config.seed + SEED_APART
        self.say(f"tuning {name}: an original and an oracle of seed {seed}, of which no figure is reported")
        original, oracle = self._original(seed), retrained(self.source, self.left, seed, FOLDERS[0], self.progress)

        def apply(options: UnlearningConfig) -> Classifier:
            if entry.method.needs.federation:
                with tempfile.TemporaryDirectory(prefix="fedsim-tune-") as left:
                    federation = self._federation(entry.method, original, seed, None)
                    return unlearn_federated(entry.method, options, federation, Path(left)).model
            return unlearn_with(entry.method, options, original.model, self.roles, seed).model

        found = tune(entry.options, apply, oracle.model, self.roles, seed)
        self.entries = {**self.entries, name: replace(entry, options=found.options)}
        self.say(f"tuning {name}: {found.told(original.seconds + oracle.seconds)}")

    def _original(self, seed: int) -> Trained:
        source = self.source
        if seed == source.config.seed:
            seconds = math.nan if source.earlier else training_seconds(source.folder, source.data)
            return Trained(source.folder.path, source.model, seconds)
        if (kept := kept_model(source, seed)) is not None:
            return Trained(source.folder.path, kept, math.nan)
        self.say(f"seed {seed}: an original{', retrained without what was forgotten before' if source.earlier else ''}")
        return retrained(source, source.data, seed, FOLDERS[1], self.progress)

    def _start(self, name: str, original: Trained, seed: int) -> Trained:
        """Return what a method is to work on: in a sequence its own model of the request before, else the original."""
        own = None if self.before is None else self.before.made.get((seed, name))
        return original if own is None else Trained(own.left or original.folder, own.model, own.seconds)

    def _apply(self, name: str, entry: _Entry, original: Trained, seed: int) -> Unlearned | None:
        """Return what a method made of a model; None, and never tried again, where it failed."""
        if name in self.failed:
            return None
        start = self._start(name, original, seed)
        try:
            if entry.method.needs.federation:
                record = self.scratch / f"{seed}-{name}"
                federation = self._federation(entry.method, start, seed, record)
                result = unlearn_federated(entry.method, entry.options, federation, record)
            else:
                result = unlearn_with(entry.method, entry.options, start.model, self.roles, seed)
        except Exception as error:
            if isinstance(error, FedsimError) and len(self.asked) == 1 and entry.kind == "method":
                raise  # it says what is wrong with the request
            reason = f"{type(error).__name__}: {error}"
            self.notes.append(str(error) if isinstance(error, FedsimError) else f"{name} failed ({reason})")
            self.say(f"seed {seed}: {self.notes[-1]}")
            self.failed.add(name)
            self.contestants.pop(name, None)
            return None
        if self.inherited is not None:
            own = self.inherited if self.before is None else self.before.ledgers.get(name, self.inherited)
            self.ledgers.setdefault(name, derived_ledger(own, entry.method, result.spent))
        memory = f" and up to {result.costs['peak_mb']:,.0f} MB" if "peak_mb" in result.costs else ""
        self.say(f"seed {seed}: {name} took {result.seconds:.2f} s{memory}")
        return result

    def _federation(self, method: Method, start: Trained, seed: int, record: Path | None) -> Federation:
        config = self.source.config.model_copy(update={"seed": seed})
        return Federation(config, self.source.data, self.left, start.folder, method.needs, self.progress, record)

    def _measure(self, model: Classifier, against: Measured | None, *, floors: bool = False) -> Measured:
        return measure(model, self.roles, self.source.config.seed, against, floors=floors)

    def _costs_of_all(self) -> dict[str, float]:
        """Return what retraining costs the federation; nothing where no method is to be compared by that."""
        if not any(entry.method.needs.federation for entry in self.entries.values()):
            return {}
        config, able = self.source.config, np.count_nonzero(self.left.partition.sizes)
        woken = config.rounds * min(config.cohort_size, int(able))
        traffic = 2 * woken * size_mb(dict(self.source.model.state_dict()))
        return {"rounds": config.rounds, "clients_woken": woken, "traffic_mb": traffic}

    def _add(
        self,
        name: str,
        kind: Kind,
        model: Classifier,
        measured: Measured,
        seconds: float,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        where = self.entries[name].method.where if name in self.entries else None
        contestant = self.contestants.setdefault(name, Contestant(kind, where))
        contestant.runs.append(measured)
        contestant.seconds.append(seconds)
        contestant.costs.append(costs or {})
        self.firsts.setdefault(name, (model, measured))

    def outcome(self, folder: Path, seeds: int, *, tells_classes: bool = True) -> Outcome:
        """Return all of it, ranked."""
        source, request = self.source, self.request
        rows = make_rows(self.contestants, request.kind, generator(source.config.seed, "ensembles"))
        before, after = (np.count_nonzero(data.partition.sizes) for data in (source.data, self.left))
        forgotten = source.data.class_counts - self.left.class_counts
        names = [*(source.data.dataset.class_names or map(str, range(len(forgotten))))]
        labels = self.roles.unseen.y
        alike = 0 if labels is None else int(np.isin(labels.cpu().numpy(), np.flatnonzero(forgotten)).sum())
        comparison = Comparison(
            run=str(source.folder.path), forget=request.spec, kind=request.kind, num_forget=len(request.rows),
            num_retain=len(request.retain), num_unseen=alike, clients=before, clients_left=after,
            forgotten_classes=(forgotten if tells_classes else np.zeros_like(forgotten)).tolist(),
            class_names=names, seeds=seeds, rows=rows,
            floor=noise_floor(self.contestants), notes=[*self.notes, *straddling(request, source.data)],
        )  # fmt: skip
        best, first = comparison.best.name, source.config.seed
        further = [first + number for number in range(1, seeds)] if len(self.asked) == 1 else []
        made = self.made.get((first, best))
        return Outcome(
            folder, comparison, {row.name: self.firsts[row.name] for row in rows}, self.left,
            further={seed: self.made[seed, best].model for seed in further if (seed, best) in self.made},
            replayed=made.left if made is not None else self.oracle, ledgers=self.ledgers,
        )  # fmt: skip


def _require_models(models: int, seeds: int, then: Sequence[str]) -> None:
    if then:
        raise FedsimError("--models: serves one request at a time; leave out --then, and go on from its outcome")
    if models < seeds:
        raise FedsimError(f"--models: must be at least the {seeds} seeds of the full comparison, got {models}")


def _entries(
    asked: Sequence[str], request: Request, history: HistoryConfig, overrides: Mapping[str, Any]
) -> tuple[dict[str, _Entry], list[str]]:
    """Return the methods to run, the baseline among them, and why others that `all` names cannot."""
    names = sorted(declared("unlearning", "unlearning")) if asked == ["all"] else list(asked)
    methods = {name: load_unlearning(name) for name in dict.fromkeys([*names, _BASELINE])}
    given = _sorted_options(overrides, names, methods)
    entries, notes = {}, []
    for name, method in methods.items():
        if (reason := refusal(method, request, history)) is None:
            asked_for = name in names and (name != _BASELINE or asked != ["all"])
            entries[name] = _Entry(
                method, options_of(method, given[name], request.kind), "method" if asked_for else "baseline"
            )
        elif asked != ["all"] and name in names:
            raise FedsimError(f"--method {name}: {reason}; fedsim list unlearning shows what each can do")
        else:
            notes.append(f"left out: {reason}")
    if names and not any(entry.kind == "method" for entry in entries.values()):
        raise FedsimError(f"--method all: no method can serve --forget {request.spec} ({'; '.join(notes)})")
    return entries, notes


def _private(
    entries: dict[str, _Entry], inherited: Ledger | None, asked: Sequence[str], notes: list[str]
) -> dict[str, _Entry]:
    """Return the methods that keep what the run promises; one that was asked for by name has to be among them."""
    kept = {}
    for name, entry in entries.items():
        if (reason := breach(entry.method, inherited)) is None:
            kept[name] = entry
        elif name in asked:
            require_kept(entry.method, inherited, no_privacy=False)
        else:
            notes.append(f"left out: {reason} (--no-privacy lets it)")
    if asked and not any(entry.kind == "method" for entry in kept.values()):
        raise FedsimError(f"--method all: no method keeps what the run promises ({'; '.join(notes)})")
    return kept


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


@contextlib.contextmanager
def _reserved(parent: Path, name: str | None, described: str, force: bool) -> Iterator[Path]:
    """Hold the folder of a new outcome, having refused one that may not be written to."""
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", described)[:80].strip("-.")
        for number in itertools.count(1):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(held(folder))
                except InUse:  # the same request, at the same time
                    continue
                if not folder.exists():
                    yield folder
                    return
    elif not re.fullmatch(OUTCOME_NAME, name) or name in (taken := (*FOLDERS, MEMBERS)):
        raise FedsimError(f"--name {name}: must be letters, digits, '.', '_' and '-', and none of {', '.join(taken)}")
    else:
        with held(folder := parent / name):
            if folder.exists() and not force:
                raise FedsimError(f"{folder}: exists already; choose another --name, or replace it with --force")
            yield folder
