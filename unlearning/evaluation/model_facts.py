"""Measurements of one model on the four sets, without any other model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unlearning.evaluation.accuracies import accuracy, class_accuracies
from unlearning.evaluation.flags import collapsed, over_forgotten
from unlearning.evaluation.logistic_attack import MIN_SIZE, logistic_attack
from unlearning.evaluation.loss_attack import loss_auc_attack, loss_threshold_attack
from unlearning.evaluation.noise_floor import Attack, match_classes
from unlearning.evaluation.nomus import nomus
from unlearning.evaluation.report import ModelFacts, Splits
from unlearning.evaluation.scores import Array, Floats, has_several_labels, losses

_ATTACKS: dict[str, Callable[[Floats, Floats, np.random.Generator, int], Attack]] = {
    "mia_auc": loss_auc_attack,
    "mia_threshold": loss_threshold_attack,
    "mia_logistic": logistic_attack,
}


def model_facts(
    labels: Splits[Array], logits: Splits[Array], rng: np.random.Generator, *, floors: bool = False
) -> ModelFacts:
    """Return accuracies, losses, attacks and flags of one model.

    Give each compared model a new generator of the same seed, so that attacks use the same samples and
    splits. Attacks and the over-forgotten flag use rows with equal classes on both sides.

    Parameters
    ----------
    labels
        class numbers (n_s,), or labels (n_s, L), of each set s
    logits
        (n_s, C) of each set s
    floors
        also run the attacks on halves of the never-seen data, which takes ten times as long
    """
    values, per_class = {}, {}
    for name, z in logits.items():
        values[f"accuracy_{name}"] = accuracy(z, getattr(labels, name))
        per_class[name] = [None if np.isnan(a) else float(a) for a in class_accuracies(z, getattr(labels, name))]
    forget, unseen = losses(logits.forget, labels.forget), losses(logits.unseen, labels.unseen)
    values |= {"loss_forget": float(forget.mean()), "loss_unseen": float(unseen.mean())}
    ours, theirs = match_classes(labels.forget, labels.unseen, rng)
    attacks, worse = {}, None
    if len(ours):
        worse = over_forgotten(forget[ours], unseen[theirs])
        for (name, attack), stream in zip(_ATTACKS.items(), rng.spawn(len(_ATTACKS)), strict=True):
            if name != "mia_logistic" or len(ours) >= MIN_SIZE:  # with fewer samples, a tenth of them is none
                attacks[name] = attack(forget[ours], unseen[theirs], stream, 10 if floors else 0)
                values[name] = attacks[name].value
    if "mia_logistic" in values:
        values["nomus"] = nomus(values["accuracy_test"], values["mia_logistic"])
    return ModelFacts(
        values, per_class, attacks, worse, collapsed(logits.test, several_labels=has_several_labels(labels.test))
    )
