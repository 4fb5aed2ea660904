"""The meaning of metrics, a title and a sentence for each, and the choice of a run's most important metrics.

A method describes its own metrics and heads in its file, and names the important ones; a run's summary stores that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from fedsim.report.wording import split_name

_QUANTITIES: Final = {
    "accuracy": ("accuracy", "Share of test samples whose class is predicted"),
    "accuracy_many": ("accuracy, large classes", "Mean accuracy on the classes with many training samples"),
    "accuracy_medium": ("accuracy, medium classes", "Mean accuracy on the classes with some training samples"),
    "accuracy_few": ("accuracy, small classes", "Mean accuracy on the classes with few training samples"),
    "accuracy_masked": ("accuracy, own classes only", "Accuracy without classes that a client does not train on"),
    "accuracy_unmasked": ("accuracy, all classes", "Accuracy with all classes, also those that a client never saw"),
    "accuracy_std": ("accuracy, spread", "Standard deviation of clients' accuracies"),
    "accuracy_p10": ("accuracy, 10th percentile", "Accuracy that a tenth of the clients have less than"),
    "accuracy_worst10": ("accuracy, worst tenth", "Mean accuracy of the tenth of the clients that do worst"),
    "accuracy_pooled": ("accuracy, by samples", "Accuracy over all clients' test samples together"),
    "accuracy_old": ("accuracy, old classes", "Accuracy on the classes of earlier stages"),
    "accuracy_new": ("accuracy, new classes", "Accuracy on the classes of the newest stage"),
    "balanced_accuracy": ("balanced accuracy", "Mean of the accuracies on each class, so that large classes hide none"),
    "f1_macro": ("F1 (macro)", "Mean over classes of the harmonic mean of precision and recall"),
    "auc": ("AUC", "Chance that a sample of a class is scored above one of another, mean over classes; 0.5: guessing"),
    "loss": ("loss", "Mean cross-entropy in nats; ln(classes) is guessing, lower is better"),
    "mse": ("mean squared error", "In the units that targets are learned in: 1 is about predicting their mean"),
    "r2": ("R²", "Share of the targets' variance that is predicted; 0 is predicting their mean"),
    "excess_risk": ("excess risk", "Mean squared distance to the true mean of the targets"),
    "perplexity": ("perplexity", "exp(loss): among how many equally likely signs the next one seems to be"),
    "forgetting": ("forgetting", "Accuracy lost since each class's best round, mean over old classes"),
    "forgetting_ends": ("forgetting, by stage", "Accuracy lost since the best end of a stage, mean over old stages"),
    "relative_forgetting": ("forgetting, relative", "Accuracy lost as a share of the best"),
    "num_clients": ("clients measured", "Number of clients that were measured"),
    "num_samples": ("samples measured", "Number of test samples that were used"),
    "clients_per_s": ("clients per second", "How fast clients were trained; of this machine, not of the method"),
    "idle_clients": ("idle clients", "Drawn, but with too little data for a step"),
    "failures": ("failures", "Replies that were lost in the round"),
    "next_clip_norm": ("clipping norm", "Largest norm of an update in the next round"),
    "seconds": ("seconds", "Time of the server's own work before the round"),
}  # fmt: skip
_HEADS: Final = {
    "global": ("Global", "of the global model on the global test set"),
    "clients": ("Clients", "of clients' own models on their own test samples"),
    "unseen": ("Unseen clients", "of the models of clients that were never trained, on their own test samples"),
    "validation": ("Validation", "of the global model on what clients hold out"),
    "validation_clients": ("Validation, clients", "of clients' own models on what they hold out"),
    "train": ("Training", "while clients train, mean over the clients of the round"),
    "stages": ("Stages", "of the global model"),
    "server": ("Server", "between rounds"),
    "privacy": ("Privacy", "of the mechanism"),
}
_FIRST: Final = (
    "global/accuracy", "global/mse", "clients/accuracy", "clients/mse", "unseen/accuracy", "validation/accuracy",
    "validation_clients/accuracy", "validation/mse", "stages/forgetting", "global/balanced_accuracy",
    "global/perplexity", "global/r2", "global/accuracy_few", "global/excess_risk", "clients/accuracy_worst10",
    "global/loss", "global/auc", "train/loss",
)  # fmt: skip
_SHOWN: Final = 5


class Meaning(NamedTuple):
    """The meaning of a metric."""

    title: str
    sentence: str
    known: bool = True
    """Whether there is a description."""


def meaning(name: str, own: Mapping[str, str] | None = None) -> Meaning:
    """Return a metric's title and sentence; `own` are the method's own descriptions, by metric or by head.

    `global_psi/accuracy` is the accuracy of the head psi.
    """
    said, (place, quantity) = dict(own or {}), split_name(name)
    whose, _, head = place.partition("_") if place not in _HEADS else (place, "", "")
    where, of = _HEADS.get(whose, (place, ""))
    if head:
        where, of = f"{where}, {head}", f"{of}; {said.get(head, f'the head {head}')}"
    family = quantity.partition(":")[0]
    if quantity in _QUANTITIES and not (whose == "train" and quantity == "loss"):
        title, sentence = _QUANTITIES[quantity]
        if not place:
            return Meaning(title[:1].upper() + title[1:], f"{sentence}.")
        return Meaning(f"{where}: {title}", f"{sentence}, {of}." if of else f"{sentence}.")
    sentence = said.get(quantity) or said.get(family) or ""
    if quantity == "loss":
        sentence = said.get("loss", "What clients minimise: the method's own objective")
    words = re.sub(r"[_:]+", " ", quantity)
    return Meaning(f"{where}: {words}", f"{sentence or 'A measure of the method'}, {of}.", bool(sentence))


def headline(names: Iterable[str], method: Sequence[str] = ()) -> list[str]:
    """Return at most five important metrics: first those that the method names, then general ones."""
    there = list(names)
    wanted = [*(name for name in method if name in there), *(name for name in _FIRST if name in there)]
    return list(dict.fromkeys(wanted or there))[:_SHOWN]
