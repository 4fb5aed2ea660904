"""Trains, unlearns and measures all models of one request, seed by seed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fedsim.errors import FedsimError, RunFailed, nearest
from fedsim.models.base import Classifier
from fedsim.own_metrics import OwnMetric
from fedsim.privacy.ledger import Ledger
from fedsim.randomness import generator
from fedsim.report.wording import format_duration
from fedsim.runs.progress import Progress
from unlearning.api.federation import Federation, size_mb
from unlearning.api.registry import Method, UnlearningConfig
from unlearning.pipeline.apply import Unlearned, unlearn_federated, unlearn_with
from unlearning.pipeline.chain import Step, steps_of
from unlearning.pipeline.comparison import Comparison, make_rows, noise_floor, read_comparison
from unlearning.pipeline.entries import Entry
from unlearning.pipeline.forget import Request, straddling, untrained
from unlearning.pipeline.further import Apply, further_models
from unlearning.pipeline.guides import Guides
from unlearning.pipeline.judgement import Contestant, Kind
from unlearning.pipeline.measure import (
    Brief,
    Measured,
    brief_of,
    brief_of_logits,
    logits_of,
    measure,
    measure_outputs,
)
from unlearning.pipeline.oracle import FOLDERS, TrainedModel, retrained, training_seconds
from unlearning.pipeline.outcome import Outcome
from unlearning.pipeline.personal import personal_values
from unlearning.pipeline.privacy import derived_ledger
from unlearning.pipeline.references import constant_predictor, masked_head
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.source import Source, kept_model
from unlearning.pipeline.tuning import SEED_APART, tune


class Contest:
    """All models of one request, trained, unlearned and measured seed by seed.

    Parameters
    ----------
    scratch
        Temporary folder for the history that federated methods write during their replay.
    before
        In a sequence, the contest of the previous request: methods continue from their own models of it.
    own_metrics
        The user's own metrics of every model, in addition to those of the catalogue.
    """

    def __init__(
        self,
        source: Source,
        request: Request,
        entries: Mapping[str, Entry],
        notes: list[str],
        say: Callable[[str], None],
        progress: Progress | None,
        inherited: Ledger | None,
        scratch: Path,
        before: Contest | None,
        own_metrics: Mapping[str, OwnMetric],
    ) -> None:
        self.inherited = inherited
        self.ledgers: dict[str, Ledger] = {}
        """Privacy ledgers of each method's model of the first seed."""
        self.source, self.request, self.entries = source, request, entries
        self.notes, self.say, self.progress = notes, say, progress
        self.scratch, self.before, self.own_metrics = scratch, before, own_metrics
        self.roles = roles_of(source, request)
        self.guides = Guides(source, request, self.roles, say)
        self.left = source.data.without(request.rows)
        self.made: dict[tuple[int, str], Unlearned] = {}
        """Results of methods, by seed and name."""
        self.contestants: dict[str, Contestant] = {}
        self.firsts: dict[str, tuple[Classifier, Measured]] = {}
        self.asked = [name for name, entry in entries.items() if entry.kind == "method"]
        self.failed: set[str] = set()
        self.oracle: Path | None = None
        """Folder of the oracle of the first seed."""

    def run_seed(self, seed: int, *, oracle: bool) -> None:
        """Add a model of this seed to every contestant."""
        original = self._original(seed)
        made = {name: self._apply(name, entry, original, seed) for name, entry in self.entries.items()}
        if self.asked and not any(made[name] for name in self.asked):
            raise RunFailed(f"all methods failed: {'; '.join(self.notes)}; nothing was written")
        against: Measured | None = None
        if oracle:  # after the methods, as these fail early
            self.say(f"seed {seed}: the oracle, trained from scratch without {self.request.spec}")
            delivered = not self.asked and seed == self.source.config.seed
            trained = retrained(self.source, self.left, seed, FOLDERS[0], self.progress, history=delivered)
            self.oracle = self.oracle or trained.folder
            against = self._measure(trained.model, None, floors=not self.firsts)
            against = against.with_values(self._personal(trained.folder, seed))
            self._add("oracle", "oracle", trained.model, against, trained.seconds, self._costs_of_all())
            if self.inherited is not None:
                self.ledgers.setdefault("oracle", Ledger.read(trained.folder))
        measured = measured_original = self._measure(original.model, against, floors="original" not in self.firsts)
        kept = {} if self.source.earlier and seed != self.source.config.seed else self._personal(original.folder, seed)
        measured = measured.with_values(kept)
        self._add("original", "original", original.model, measured, original.seconds)
        self.say(
            f"seed {seed}: attacks took {format_duration(measured.seconds)} on the original; as long on each model"
        )
        for name, result in made.items():
            if result is not None:
                self.made[seed, name] = result
                # A replay of the rounds also changes clients' own models; other methods do not.
                own = self._personal(result.left, seed) or kept
                measured = self._measure(result.model, against).with_values(own)
                self._add(name, self.entries[name].kind, result.model, measured, result.seconds, result.costs)
        for name, logits in self.guides.direct(measured_original.logits).items():
            rng = generator(self.source.config.seed, "attacks")
            told = measure_outputs(measured_original.labels, logits, rng, None, against)
            self._add(name, "baseline", None, told, math.nan)
        references = {
            "constant": constant_predictor(original.model, self.roles.retain),
            "masked": masked_head(original.model, self.roles.forget, self.roles.retain),
        }
        for name, model in references.items():
            if model is not None:
                self._add(name, "baseline", model, self._measure(model, against).with_values(kept), math.nan)

    def add_models(self, seeds: Sequence[int]) -> None:
        """Add models of further seeds, of which only margins are kept."""
        methods: dict[str, Apply] = {}
        for name, entry in self.entries.items():
            if name in self.contestants and not entry.method.needs.federation:
                self.guides.train_oracles(entry.method, seeds)
                methods[name] = partial(self._applied, entry)
        methods |= {name: partial(self._predicted, name) for name in self.contestants.keys() & self.guides.names}
        for name in self.contestants.keys() & self.entries.keys() - methods.keys():
            self.notes.append(f"{name} works on run folders, so its KLOM and U-LiRA use only the models of the seeds")
        found = further_models(self.source, self.request, seeds, methods, self.say)
        for name, models in found.items():
            self.contestants[name].further += models

    def _applied(self, entry: Entry, original: Classifier, seed: int) -> Brief | None:
        made = self._centrally(entry.method, entry.options, original, seed)
        return brief_of(made.model, self.roles, self.source.config.seed)

    def _predicted(self, name: str, original: Classifier, seed: int) -> Brief | None:
        logits = self.guides.direct(logits_of(original, self.roles))[name]
        return brief_of_logits(logits, self.roles, self.source.config.seed)

    def _centrally(self, method: Method, options: UnlearningConfig, model: Classifier, seed: int) -> Unlearned:
        made = unlearn_with(method, options, model, self.guides.roles_for(method, options, seed), seed)
        return replace(made, costs={**made.costs, **self.guides.costs(method, made.seconds)})

    def tune(self, name: str) -> None:
        """Search for the options of a method."""
        if name not in self.entries:
            raise FedsimError(f"--tune {name}: must be one of the methods; {nearest(name, self.entries)}")
        entry, seed = self.entries[name], self.source.config.seed + SEED_APART
        self.say(f"tuning {name}: an original and an oracle of seed {seed}, which no reported result uses")
        original, oracle = self._original(seed), retrained(self.source, self.left, seed, FOLDERS[0], self.progress)

        def apply(options: UnlearningConfig) -> Classifier:
            if entry.method.needs.federation:
                with tempfile.TemporaryDirectory(prefix="fedsim-tune-") as left:
                    federation = self._federation(entry.method, original, seed, None)
                    return unlearn_federated(entry.method, options, federation, Path(left)).model
            return self._centrally(entry.method, options, original.model, seed).model

        found = tune(entry.options, apply, oracle.model, self.roles, seed)
        self.entries = {**self.entries, name: replace(entry, options=found.options)}
        self.say(f"tuning {name}: {found.told(original.seconds + oracle.seconds)}")

    def _original(self, seed: int) -> TrainedModel:
        source = self.source
        if seed == source.config.seed:
            seconds = math.nan if source.earlier else training_seconds(source.folder, source.data)
            return TrainedModel(source.folder.path, source.model, seconds)
        if (kept := kept_model(source, seed)) is not None:
            return TrainedModel(source.folder.path, kept, math.nan)
        self.say(f"seed {seed}: an original{', retrained without what was forgotten before' if source.earlier else ''}")
        return retrained(source, source.data, seed, FOLDERS[1], self.progress)

    def _start(self, name: str, original: TrainedModel, seed: int) -> TrainedModel:
        """Return the start model of a method: in a sequence its model of the previous request, else the original."""
        own = None if self.before is None else self.before.made.get((seed, name))
        return original if own is None else TrainedModel(own.left or original.folder, own.model, own.seconds)

    def _apply(self, name: str, entry: Entry, original: TrainedModel, seed: int) -> Unlearned | None:
        """Apply a method and return its result; None if it failed, and it is then not tried again."""
        if name in self.failed:
            return None
        start = self._start(name, original, seed)
        try:
            if entry.method.needs.federation:
                record = self.scratch / f"{seed}-{name}"
                federation = self._federation(entry.method, start, seed, record)
                result = unlearn_federated(entry.method, entry.options, federation, record)
            else:
                result = self._centrally(entry.method, entry.options, start.model, seed)
        except Exception as error:
            if isinstance(error, FedsimError) and len(self.asked) == 1 and entry.kind == "method":
                raise  # the error explains what is wrong with the request
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

    def _federation(self, method: Method, start: TrainedModel, seed: int, record: Path | None) -> Federation:
        config = self.source.config.model_copy(update={"seed": seed})
        return Federation(config, self.source.data, self.left, start.folder, method.needs, self.progress, record)

    def _personal(self, folder: Path | None, seed: int) -> dict[str, float]:
        """Return the metrics of the personal models in a folder; empty if there are none."""
        return personal_values(folder, self.source, self.left, self.roles, seed)

    def _measure(self, model: Classifier, against: Measured | None, *, floors: bool = False) -> Measured:
        return measure(model, self.roles, self.source.config.seed, against, floors=floors, own=self.own_metrics)

    def _costs_of_all(self) -> dict[str, float]:
        """Return the cost of retraining for the federation; empty if no method has such costs."""
        if not any(entry.method.needs.federation for entry in self.entries.values()):
            return {}
        config, able = self.source.config, np.count_nonzero(self.left.partition.sizes)
        woken = config.rounds * min(config.cohort_size, int(able))
        traffic = 2 * woken * size_mb(dict(self.source.model.state_dict()))
        return {"rounds": config.rounds, "clients_woken": woken, "traffic_mb": traffic}

    def chain(self, name: str) -> list[Step]:
        """Return the accuracies on each request's samples after each request, for a method's first model."""
        if self.before is not None and name in self.before.firsts:
            before = self.before.chain(name)
        else:  # it started from the model that was delivered then
            before = read_comparison(self.source.earlier[-1].folder).chain if self.source.earlier else []
        shown = [one for one in (() if before else ("original",)) + (name, "oracle") if one in self.firsts]
        models = {name: self.firsts[name] for name in shown}
        return [*before, *steps_of(self.source, self.roles, self.request.spec, models)]

    def _add(
        self,
        name: str,
        kind: Kind,
        model: Classifier | None,
        measured: Measured,
        seconds: float,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        where = self.entries[name].method.where if name in self.entries else None
        contestant = self.contestants.setdefault(name, Contestant(kind, where))
        contestant.runs.append(measured)
        contestant.seconds.append(seconds)
        contestant.costs.append(costs or {})
        if model is not None:
            self.firsts.setdefault(name, (model, measured))

    def outcome(self, folder: Path, seeds: int, *, tells_classes: bool = True) -> Outcome:
        """Return the ranked outcome."""
        source, request = self.source, self.request
        rows = make_rows(self.contestants, request.kind, generator(source.config.seed, "ensembles"))
        before, after = (np.count_nonzero(data.partition.sizes) for data in (source.data, self.left))
        forgotten = source.data.class_counts - self.left.class_counts
        labels = self.roles.unseen.y
        alike = 0 if labels is None else int(np.isin(labels.cpu().numpy(), np.flatnonzero(forgotten)).sum())
        if labels is not None and request.several_labels:  # labels take the place of classes
            alike, forgotten = len(labels), source.data.dataset.y_train[request.rows].sum(0, np.int64)
        names = [*(source.data.dataset.class_names or map(str, range(len(forgotten))))]
        comparison = Comparison(
            run=str(source.folder.path), forget=request.spec, kind=request.kind, num_forget=len(request.rows),
            num_retain=len(request.retain), num_unseen=alike, clients=before, clients_left=after,
            forgotten_classes=(forgotten if tells_classes else np.zeros_like(forgotten)).tolist(),
            class_names=names, seeds=seeds, rows=rows,
            floor=noise_floor(self.contestants), own_metrics={n: one.sentence for n, one in self.own_metrics.items()},
            notes=[*self.notes, *straddling(request, source.data), *untrained(request)],
        )  # fmt: skip
        best, first = comparison.best.name, source.config.seed
        comparison = comparison.model_copy(update={"chain": self.chain(best)})
        own = range(first + 1, first + seeds) if len(self.asked) == 1 else ()
        further = {seed: self.made[seed, best].model for seed in own if (seed, best) in self.made}
        made = self.made.get((first, best))
        return Outcome(
            folder, comparison, {row.name: self.firsts[row.name] for row in rows if row.name in self.firsts},
            request.left(source.everyone), further, made.left if made is not None else self.oracle, self.ledgers,
        )  # fmt: skip
