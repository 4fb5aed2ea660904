"""A nearest-class-mean probe on the features: it finds knowledge that a changed classifier hides.

mu_c = mean of e(x) over training samples of class c; the prediction for x is argmin_c ||e(x) - mu_c||, e the features.
Means of the kept classes come from kept samples. A completely forgotten class has no kept samples, so its mean is that
of the first half of its forgotten samples, and only the second half is tested.
This is the classifier of iCaRL (arXiv:1611.07725), used here as an attack on forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.metric import Metric, percent
from unlearning.evaluation.scores import Floats, Ints

Labelled = tuple[Floats, Ints]

METRICS = (
    Metric("probe_forget", "Probe", "accuracy on the forget set of a nearest-class-mean classifier on the features",
           "oracle", 0, 1, write=percent,
           reading="far above the oracle's: the features still contain the information, even if the classifier does "
                   "not use it"),
    Metric("probe_unseen", "Probe, unseen", "accuracy of the same classifier on never-seen samples", "high", 0, 1,
           write=percent),
)  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """The accuracies of the probe."""

    forget: float
    """Accuracy on forgotten samples, in [0, 1]."""
    unseen: float
    """Accuracy on never-seen samples: the part that is due to generalisation, not memory."""


def probe(forget: Labelled, retain: Labelled, unseen: Labelled) -> Probed:
    """Return the accuracies of the nearest class mean; each argument is features (n, dim) and classes (n,).

    Forgotten and kept samples are training samples; unseen ones are of the forgotten classes.
    """
    (e_f, y_f), (e_r, y_r), (e_u, y_u) = forget, retain, unseen
    is_lost, gives_mean = ~np.isin(y_f, y_r), np.zeros(len(y_f), np.bool_)
    for label in np.unique(y_f[is_lost]):
        rows = np.flatnonzero(y_f == label)
        gives_mean[rows[: len(rows) // 2]] = True
    e, y = np.concatenate([e_r, e_f[gives_mean]]), np.concatenate([y_r, y_f[gives_mean]])
    classes = np.unique(y)
    means = np.stack([e[y == label].mean(0) for label in classes])

    def accuracy(asked: Floats, labels: Ints) -> float:
        distances = (means**2).sum(1) - 2 * asked @ means.T  # without |e|^2, which is the same for all classes
        return float((classes[distances.argmin(1)] == labels).mean())

    return Probed(accuracy(e_f[~gives_mean], y_f[~gives_mean]), accuracy(e_u, y_u))
