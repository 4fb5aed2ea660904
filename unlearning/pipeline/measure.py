"""Measures a model on each role, and its distance to the oracle; numbers have their names in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.own_metrics import OwnMetric
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.evaluation.accuracies import accuracy, right_answers
from unlearning.evaluation.batch_norm import batch_norms, re_estimated
from unlearning.evaluation.class_means import probe
from unlearning.evaluation.divergence import activation_distance, js_divergence
from unlearning.evaluation.gaps import GAP_METRICS, average_gap, selection_gap, tug_of_war
from unlearning.evaluation.harmonic_mean import h_mean
from unlearning.evaluation.model_facts import model_facts
from unlearning.evaluation.noise_floor import match_classes
from unlearning.evaluation.relearn import Relearn, relearn, relearn_ratio
from unlearning.evaluation.report import ModelFacts, Splits
from unlearning.evaluation.roc import auc
from unlearning.evaluation.scores import Array, Floats, Ints, has_several_labels, label_pairs, losses, margins
from unlearning.pipeline.roles import Roles

_BATCH, _MOST_KEPT = 500, 1_000
_RELEARNED, _MOST_SAMPLES, _EPOCHS = 0.1, 200, 20


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of one model of one seed."""

    labels: Splits[Array]
    logits: Splits[Array]
    facts: ModelFacts | None
    """None if the model's outputs are not finite; then it has no values either."""
    relearn: Relearn | None
    values: dict[str, float]
    """Values by names of `unlearning.evaluation.catalogue.METRICS`; unknown ones are left out."""
    seconds: float = 0.0
    """Time of the measurement: predictions, attacks with their noise floors, relearning."""

    @property
    def flags(self) -> list[str]:
        """The flags that are up: "diverged", "over-forgotten", "collapsed"."""
        if self.facts is None:
            return ["diverged"]
        raised = {"over-forgotten": self.facts.over_forgotten, "collapsed": self.facts.collapsed}
        return [name for name, judged in raised.items() if judged is not None and judged.flag]

    def with_values(self, values: Mapping[str, float]) -> Measured:
        """Return the measurements with further values, unless the model's outputs are not finite."""
        return self if self.facts is None else replace(self, values={**self.values, **values})

    def losses(self, role: str) -> Floats:
        """Return the cross-entropy of each sample of a role, (N,) nats."""
        return losses(getattr(self.logits, role), getattr(self.labels, role))

    def margins(self, role: str) -> Floats:
        """Return the margin of each sample of a role, (N,)."""
        return margins(getattr(self.logits, role), getattr(self.labels, role))


def measure(
    model: Classifier, roles: Roles, seed: int, oracle: Measured | None = None, *, floors: bool = False,
    own: Mapping[str, OwnMetric] = MappingProxyType({}),
) -> Measured:  # fmt: skip
    """Measure one model, and its distance to the oracle if there is one.

    `seed` draws the samples for attacks and the batches of relearning: the same for every model. Without
    `floors`, the attacks are not repeated on halves of never-seen samples, which takes ten times as long.
    `own` are the user's own metrics, by name.
    """
    begun = time.perf_counter()
    labels: Splits[Array] = Splits(*(_labels(view).cpu().numpy() for view in roles.views))
    logits: Splits[Array] = Splits(*(_logits(model, view) for view in roles.views))
    again = _relearn(model, roles.forget, seed) if _finite(logits) else None
    measured = measure_outputs(labels, logits, generator(seed, "attacks"), again, oracle, floors=floors)
    values = measured.values
    if measured.facts is not None:
        values = values | {name: metric(dict(logits.items()), dict(labels.items())) for name, metric in own.items()}
        values |= _hidden_knowledge(model, roles, labels, seed) | _selection(model, roles, seed)
        if oracle is not None and "accuracy_selection" in oracle.values and "accuracy_selection" in values:
            values["selection_gap"] = selection_gap(values, oracle.values)
        if roles.first is not None:
            values |= _by_class(roles.first, roles, labels, logits)
        if roles.earlier is not None:
            values |= _earlier(model, roles.earlier, seed)
    return replace(measured, values=values, seconds=time.perf_counter() - begun)


def _hidden_knowledge(model: Classifier, roles: Roles, labels: Splits[Array], seed: int) -> dict[str, float]:
    """Return the results of attacks on the model's weights and features, also for never-seen samples as a reference."""
    found = {"relearn_unseen": float(_relearn(model, roles.unseen, seed, len(roles.forget)).steps)}
    kept = _some(roles.retain, _MOST_KEPT, generator(seed, "probe-samples"))
    if not roles.forget.several_labels:  # the probe needs classes
        probed = probe(*(_features(model, view) for view in (roles.forget, kept, roles.unseen)))
        found |= {"probe_forget": probed.forget, "probe_unseen": probed.unseen}
    if batch_norms(model):
        restored = _restored(model, roles.retain, seed)
        for role in ("forget", "unseen"):
            found[f"accuracy_{role}_bn"] = accuracy(_logits(restored, getattr(roles, role)), getattr(labels, role))
    if roles.triggered is not None:
        found["trigger_success"] = accuracy_on(model, roles.triggered)
    return found


def selection_values(model: Classifier, roles: Roles, seed: int) -> dict[str, float]:
    """Return the values that `selection_gap` needs, without using the samples of reported figures.

    The result is empty for a model whose outputs are not finite.
    """
    forget, retain = (_logits(model, view) for view in (roles.forget, roles.retain))
    found = _selection(model, roles, seed) if np.isfinite(forget).all() and np.isfinite(retain).all() else {}
    if found:
        found["accuracy_forget"] = accuracy(forget, _labels(roles.forget).cpu().numpy())
        found["accuracy_retain"] = accuracy(retain, _labels(roles.retain).cpu().numpy())
    return found


def _selection(model: Classifier, roles: Roles, seed: int) -> dict[str, float]:
    """Return the metrics on the samples held out for selection; empty if outputs are not finite."""
    logits, labels = _logits(model, roles.selection), _labels(roles.selection).cpu().numpy()
    forget, forget_labels = _logits(model, roles.forget), _labels(roles.forget).cpu().numpy()
    if not np.isfinite(logits).all():
        return {}
    ours, theirs = match_classes(forget_labels, labels, generator(seed, "selection-attack"))
    found = {"accuracy_selection": accuracy(logits, labels)}
    if len(ours):
        found["mia_selection"] = auc(-losses(forget, forget_labels)[ours], -losses(logits, labels)[theirs])
    return found


def measure_outputs(
    labels: Splits[Array],
    logits: Splits[Array],
    rng: np.random.Generator,
    again: Relearn | None = None,
    oracle: Measured | None = None,
    *,
    floors: bool = False,
) -> Measured:
    """Measure a model from labels (n_s,) and logits (n_s, C) of each set s, and from relearning.

    Give generators of the same state to all models of a comparison, so that attacks use the same samples.
    """
    if not _finite(logits):
        return Measured(labels, logits, None, None, {})
    facts = model_facts(labels, logits, rng, floors=floors)
    # A model that never relearns counts with the largest number of steps: without it the mean would be too small.
    values = facts.values | ({"relearn_steps": float(again.steps)} if again else {})
    measured = Measured(labels, logits, facts, again, values)
    return measured if oracle is None else replace(measured, values=values | _distances(measured, oracle))


def _earlier(model: Classifier, earlier: View, seed: int) -> dict[str, float]:
    """Return the accuracy on samples of earlier requests, and how fast relearning restores it."""
    again = _relearn(model, earlier, seed)
    known = {"accuracy_earlier": accuracy_on(model, earlier)}
    return known | ({"relearn_earlier": float(again.steps)} if again.reached else {})


def _by_class(first: Classifier, roles: Roles, labels: Splits[Array], logits: Splits[Array]) -> dict[str, float]:
    """Return the accuracy on test samples of kept classes, and H; empty if the test set lacks either kind of class."""
    y, z = np.asarray(labels.test), np.asarray(logits.test)
    kept, lost = np.isin(y, labels.retain), np.isin(y, np.setdiff1d(labels.forget, labels.retain))
    if not kept.any() or not lost.any():
        return {}
    rows = torch.from_numpy(np.flatnonzero(lost)).to(roles.test.x.device)
    gone = replace(roles.test, x=roles.test.x[rows], y=_labels(roles.test)[rows])
    before, after = accuracy(_logits(first, gone), y[lost]), accuracy(z[lost], y[lost])
    right = accuracy(z[kept], y[kept])
    return {"accuracy_kept": right, "h_mean": h_mean(right, before, after)}


def accuracy_on(model: Classifier, view: View) -> float:
    """Return the accuracy of a model on a view with labels, in [0, 1]."""
    return accuracy(_logits(model, view), _labels(view).cpu().numpy())


def _finite(logits: Splits[Array]) -> bool:
    return all(np.isfinite(z).all() for _, z in logits.items())


@dataclass(frozen=True, eq=False)
class Brief:
    """The measurements of one of many models: margins, and values computed from them."""

    by_role: dict[str, Floats]
    """Margins (N,) of the forget, retain, test and unseen samples."""
    values: dict[str, float]
    """Accuracies, and the AUC of the attack by loss; by names of the catalogue."""

    def margins(self, role: str) -> Floats:
        """Return the margin of each sample of a role, (N,)."""
        return self.by_role[role]


def brief(
    found: Mapping[str, Floats], right: Mapping[str, Array], labels: Mapping[str, Array], seed: int
) -> Brief | None:
    """Return the values of `measure` that need only margins and right answers (n_s,) of each role; None if not finite.

    Losses are -log p_y = log(1 + exp(-margin)), so margins are enough for the attack by loss.
    """
    if not all(np.isfinite(m).all() for m in found.values()):
        return None
    values = {f"accuracy_{role}": float(np.mean(np.asarray(each))) for role, each in right.items()}
    ours, theirs = match_classes(labels["forget"], labels["unseen"], generator(seed, "attacks"))
    if len(ours):
        forget, unseen = (np.logaddexp(0.0, -found[role]) for role in ("forget", "unseen"))
        values["mia_auc"] = auc(-forget[ours], -unseen[theirs])
    return Brief(dict(found), values)


def brief_of(model: Classifier, roles: Roles, seed: int) -> Brief | None:
    """Return the brief measurements of a model; None if its outputs are not finite."""
    return brief_of_logits(logits_of(model, roles), roles, seed)


def logits_of(model: Classifier, roles: Roles) -> Splits[Array]:
    """Return the logits (n_s, C) of each role s."""
    return Splits[Array](*(_logits(model, view) for view in roles.views))


def brief_of_logits(logits: Splits[Array], roles: Roles, seed: int) -> Brief | None:
    """Return the brief measurements from logits (n_s, C) of each role s; None if they are not finite."""
    if not _finite(logits):
        return None
    labels = {role: _labels(view).cpu().numpy() for role, view in Splits(*roles.views).items()}
    right = {role: right_answers(z, labels[role]) for role, z in logits.items()}
    return brief({role: margins(z, labels[role]) for role, z in logits.items()}, right, labels, seed)


def _labels(view: View) -> Tensor:
    assert view.y is not None
    return view.y


@torch.no_grad()
def _logits(model: Classifier, view: View) -> Floats:
    model.eval()
    return np.concatenate([model(x).double().cpu().numpy() for x, _ in view.batches(_BATCH, None)])


@torch.no_grad()
def _features(model: Classifier, view: View) -> tuple[Floats, Ints]:
    model.eval()
    features = [model.features(x).flatten(1).double().cpu().numpy() for x, _ in view.batches(_BATCH, None)]
    return np.concatenate(features), _labels(view).cpu().numpy()


def _some(view: View, most: int, rng: np.random.Generator) -> View:
    """Return at most `most` samples, shuffled."""
    rows = torch.from_numpy(rng.permutation(len(view))[:most]).to(view.x.device)
    return replace(view, x=view.x[rows], y=_labels(view)[rows])


def _restored(model: Classifier, retain: View, seed: int) -> Classifier:
    """Return the model with batch norm statistics re-estimated on at most 1,000 kept samples."""
    some = _some(retain, _MOST_KEPT, generator(seed, "batch-norm-samples"))
    return re_estimated(model, (x for x, _ in some.batches(_BATCH, None)))


def _relearn(model: Classifier, view: View, seed: int, most: int = _MOST_SAMPLES) -> Relearn:
    """Fine-tune on at most `most` and at most 200 samples for at most 20 epochs."""
    some = _some(view, min(most, _MOST_SAMPLES), generator(seed, "relearn-samples"))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(_EPOCHS):
            for x, y in some.batches(32, generator(seed, "relearn", epoch)):
                assert y is not None
                yield x, y

    return relearn(
        model, batches(), (some.all()[0], _labels(some)),
        threshold=_RELEARNED, lr=0.01, momentum=0.9,
    )  # fmt: skip


def _distances(measured: Measured, oracle: Measured) -> dict[str, float]:
    if oracle.facts is None:
        return {}
    ours, theirs = measured.values, oracle.values
    target = {name: theirs[name] for name in GAP_METRICS if name in ours and name in theirs}
    forget, retain, test = ((ours[name], theirs[name]) for name in GAP_METRICS[:3])
    answers = [measured.logits, oracle.logits]
    if has_several_labels(measured.labels.forget):
        answers = [Splits(*(label_pairs(z) for _, z in each.items())) for each in answers]
    mine, its = answers
    out = {
        "average_gap": average_gap(ours, target),
        "tug_of_war": tug_of_war(forget, retain, test),
        "js_forget": js_divergence(mine.forget, its.forget),
        "js_test": js_divergence(mine.test, its.test),
        "activation_forget": activation_distance(mine.forget, its.forget),
    }
    if measured.relearn is not None and oracle.relearn is not None:
        ratio = relearn_ratio(measured.relearn, oracle.relearn)
        out |= {} if ratio is None else {"relearn_ratio": ratio}
    return out
