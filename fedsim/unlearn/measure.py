"""What a model does on each role: accuracies, attacks, relearning, distance to the oracle, as numbers by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedsim.models.base import Classifier
from fedsim.randomness import generator
from fedsim.unlearn.roles import Roles
from fedsim.unlearn.seam import View
from unlearning.evaluation import divergence, flags, gaps
from unlearning.evaluation.accuracies import accuracy, class_accuracies
from unlearning.evaluation.logistic_attack import MIN_SIZE, logistic_attack
from unlearning.evaluation.loss_attack import loss_auc_attack, loss_threshold_attack
from unlearning.evaluation.noise_floor import Attack
from unlearning.evaluation.nomus import nomus
from unlearning.evaluation.relearn import relearn
from unlearning.evaluation.scores import Floats, Ints, losses, margins

RANKED = ("forget/accuracy", "retain/accuracy", "test/accuracy", "mia/logistic")
"""Whose mean distance to the oracle's ranks the models."""

_BATCH = 500
_RELEARNED, _MOST_SAMPLES, _EPOCHS, _CHECK_EVERY = 0.1, 500, 20, 5


@dataclass(frozen=True, eq=False)
class Outputs:
    """A model's logits (N, C) and the labels (N,) of one role."""

    logits: Floats
    y: Ints


@dataclass(frozen=True, eq=False)
class Measured:
    """One model under one seed."""

    outputs: dict[str, Outputs]
    """By role."""
    metrics: dict[str, float]
    """What is not known is left out; all of it where outputs are not finite."""
    attacks: dict[str, Attack]
    flags: tuple[str, ...]
    """Of "diverged", "collapsed" and "over-forgotten"."""

    def class_accuracies(self) -> Floats:
        """Return the test accuracy of each class, (C,); NaN where there is no sample, or no finite output."""
        test = self.outputs["test"]
        if "diverged" in self.flags:
            return np.full(test.logits.shape[1], np.nan)
        return class_accuracies(test.logits, test.y)

    def losses(self, role: str) -> Floats:
        """Return the cross-entropy of each sample of a role, (N,) nats; none where outputs are not finite."""
        output = self.outputs[role]
        return losses(output.logits, output.y) if len(output.y) and "diverged" not in self.flags else np.empty(0)

    def margins(self) -> Floats:
        """Return the margin of each forgotten sample, (N,)."""
        return margins(self.outputs["forget"].logits, self.outputs["forget"].y)


def measure(model: Classifier, roles: Roles, seed: int, oracle: Measured | None = None) -> Measured:
    """Return what is known of one model; the distance to the oracle too, where there is one.

    `seed` draws the splits of attacks and the batches of relearning, the same for every model.
    """
    outputs = {
        role: _predict(model, view)
        for role in ("forget", "retain", "test", "unseen")
        if (view := getattr(roles, role)) is not None
    }
    if not all(np.isfinite(output.logits).all() for output in outputs.values()):
        return Measured(outputs, {}, {}, ("diverged",))
    measured = Measured(outputs, {}, {}, ())
    metrics = measured.metrics
    for role, output in outputs.items():
        if len(output.y):
            metrics[f"{role}/loss"] = float(measured.losses(role).mean())
            metrics[f"{role}/accuracy"] = accuracy(output.logits, output.y)
    attacks = _attacks(measured.losses("forget")[roles.matched], measured.losses("unseen"), seed)
    metrics |= {f"mia/{name}": attack.value for name, attack in attacks.items()}
    if "logistic" in attacks:
        metrics["nomus"] = nomus(metrics["test/accuracy"], attacks["logistic"].value)
    metrics |= _relearn(model, roles.forget, seed)
    if oracle is not None:
        metrics |= _distances(measured, oracle)
    return replace(measured, attacks=attacks, flags=_flags(measured, roles))


def _flags(measured: Measured, roles: Roles) -> tuple[str, ...]:
    found = []
    if flags.collapsed(measured.outputs["test"].logits).flag:
        found.append("collapsed")
    forget, unseen = measured.losses("forget")[roles.matched], measured.losses("unseen")
    if len(unseen) and flags.over_forgotten(forget, unseen).flag:
        found.append("over-forgotten")
    return tuple(found)


@torch.no_grad()
def _predict(model: Classifier, view: View) -> Outputs:
    model.eval()
    assert view.y is not None
    parts = [model(x).double().cpu().numpy() for x, _ in view.batches(_BATCH, None)]
    empty = np.empty((0, model.classifier.out_features))
    return Outputs(np.concatenate([empty, *parts]), view.y.cpu().numpy())


def _attacks(forget: Floats, unseen: Floats, seed: int) -> dict[str, Attack]:
    if min(len(forget), len(unseen)) < MIN_SIZE:
        return {}
    kinds = {"auc": loss_auc_attack, "threshold": loss_threshold_attack, "logistic": logistic_attack}
    return {name: attack(forget, unseen, generator(seed, f"attack-{name}")) for name, attack in kinds.items()}


def _relearn(model: Classifier, forget: View, seed: int) -> dict[str, float]:
    """Return the steps of SGD until at most 500 forgotten samples are known again, if 20 epochs are enough."""
    assert forget.y is not None
    rows = torch.from_numpy(generator(seed, "relearn-samples").permutation(len(forget))[:_MOST_SAMPLES])
    rows = rows.to(forget.x.device)
    some = replace(forget, x=forget.x[rows], y=forget.y[rows])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(_EPOCHS):
            for x, y in some.batches(32, generator(seed, "relearn", epoch)):
                assert y is not None
                yield x, y

    x, y = some.all()
    assert y is not None
    result = relearn(model, batches(), (x, y), threshold=_RELEARNED, lr=0.01, momentum=0.9, check_every=_CHECK_EVERY)
    return {"relearn/steps": float(result.steps)} if result.reached else {}


def _distances(measured: Measured, oracle: Measured) -> dict[str, float]:
    ours, theirs = measured.metrics, oracle.metrics
    shared = [name for name in RANKED if name in ours and name in theirs]
    if not shared:
        return {}
    target = {name: theirs[name] for name in shared}
    out = {f"gap/{name}": gap for name, gap in gaps.gaps(ours, target).items()}
    out["gap/mean"] = gaps.average_gap(ours, target) / 100
    pairs = [(ours[f"{role}/accuracy"], theirs[f"{role}/accuracy"]) for role in ("forget", "retain", "test")]
    out["tug_of_war"] = gaps.tug_of_war(pairs[0], pairs[1], pairs[2])
    logits = measured.outputs["forget"].logits, oracle.outputs["forget"].logits
    out["js/forget"] = divergence.js_divergence(*logits)
    out["activation/forget"] = divergence.activation_distance(*logits)
    if ours.get("relearn/steps") and theirs.get("relearn/steps"):
        out["relearn/ratio"] = ours["relearn/steps"] / theirs["relearn/steps"]
    return out
