"""U-LiRA: was this sample unlearned, or never seen? (arXiv:2403.01218).

For each sample x, N(mu_u, s_u) is fitted to the margins of models trained with x and then unlearned, and N(mu_n, s_n)
to those of models never trained on x. A further model has unlearned x if log N(phi; u) - log N(phi; n) > 0.

Differs from the public code: it uses margins, not 0/1 correctness. Models are scored with Gaussians that were not
fitted to them. Standard deviations have a floor of 1e-6, and a score of exactly 0 counts as half right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.metric import Metric
from unlearning.evaluation.noise_floor import Attack, NoiseFloor, of_halves
from unlearning.evaluation.roc import auc
from unlearning.evaluation.scores import Array, Floats

MIN_PAIRS = 4
METRICS = (
    Metric("u_lira", "U-LiRA",
           "accuracy of an attack that distinguishes unlearned from never-seen, sample by sample", "oracle", 0, 1,
           reading="0.5: as if never seen; above: distinguished", models=MIN_PAIRS, steady_from=64),
    Metric("u_lira_auc", "U-LiRA AUC", "area under the curve of the same attack", "oracle", 0, 1,
           reading="read it like U-LiRA", models=MIN_PAIRS, steady_from=64),
)  # fmt: skip

_MIN_SD = 1e-6


@dataclass(frozen=True)
class ULira:
    """The attack over N pairs of models and n samples."""

    attack: Attack
    """`value` is the accuracy over samples and held-out models; `standard_error` is over pairs of models, or that of
    the floor if it is larger."""
    auc: float
    """In [0, 1], over samples and the held-out models of a fold; mean over folds."""


def likelihood_ratio(phi: Floats, members: Floats, others: Floats, *, shared_variance: bool = False) -> Floats:
    """Return log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out), shaped as phi (..., n) (online LiRA).

    Parameters
    ----------
    phi
        margins to judge, (..., n)
    members, others
        margins (N, n) and (M, n) of shadow models with and without the samples, N and M at least 2
    shared_variance
        one variance per side, the mean over samples: steadier for few models
    """
    out = np.zeros_like(phi)
    for shadows, sign in ((members, 1.0), (others, -1.0)):
        variance = shadows.var(0, ddof=1)
        sd = np.maximum(np.sqrt(variance.mean() if shared_variance else variance), _MIN_SD)
        out += sign * (-0.5 * ((phi - shadows.mean(0)) / sd) ** 2 - np.log(sd))
    return out


def u_lira(
    unlearned: Array,
    never: Array,
    rng: np.random.Generator,
    *,
    folds: int = 5,
    shared_variance: bool = False,
    halvings: int = 20,
) -> ULira:
    """Return the attack on margins (N, n) of N unlearned and of N never-trained models, N at least 4.

    It is cross-fitted: pairs of models are divided into random folds, and each fold is scored with Gaussians of the
    others. Equal distributions give exactly 1/2 in expectation, because both sides are fitted on equally many models.
    `halvings` of the never-trained models give the floor; it needs 8 or more of them.
    """
    u, v = as_ensemble(unlearned), as_ensemble(never)
    if u.shape != v.shape or len(u) < MIN_PAIRS:
        raise ValueError(f"U-LiRA needs {MIN_PAIRS} pairs of models or more; got margins {u.shape} and {v.shape}")
    accuracies, aucs = _cross_fit(u, v, rng, folds, shared_variance)
    pairs = accuracies.mean(1)
    floor = _floor(v, rng, folds, shared_variance, halvings)
    # Pairs of one fold share their Gaussians, so their spread alone underestimates the error. The floor's error is that
    # of half the models, sqrt(2) times that of all.
    spread = float(pairs.std(ddof=1) / np.sqrt(len(pairs)))
    attack = Attack(
        value=float(pairs.mean()),
        chance=0.5,
        standard_error=max(spread, floor.sd / np.sqrt(2)) if floor else spread,
        sign=int(np.sign(v.mean() - u.mean())),
        size=len(u),
        reading="0.5: as if never seen; above: told apart, remembered if the sign is -1, over-forgotten if it is +1",
        floor=floor,
    )
    return ULira(attack, float(np.mean(aucs)))


def as_ensemble(margins: Array) -> Floats:
    """Return margins (N, n) of N models on n samples as float64; finite."""
    m = np.asarray(margins, np.float64)
    if m.ndim != 2 or m.size == 0 or not np.isfinite(m).all():
        raise ValueError(f"expected finite margins (models, samples), got shape {m.shape}")
    return m


def _cross_fit(
    u: Floats, v: Floats, rng: np.random.Generator, folds: int, shared_variance: bool
) -> tuple[Floats, list[float]]:
    """Return accuracies (N, n) of each pair, half a point per model, and the AUC of each fold."""
    accuracies, aucs = np.empty_like(u), []
    for fold in np.array_split(rng.permutation(len(u)), min(folds, len(u))):
        rest = np.setdiff1d(np.arange(len(u)), fold)
        ours, theirs = (
            likelihood_ratio(side[fold], u[rest], v[rest], shared_variance=shared_variance) for side in (u, v)
        )
        accuracies[fold] = (2 + np.sign(ours) - np.sign(theirs)) / 4
        aucs.append(auc(ours.ravel(), theirs.ravel()))
    return accuracies, aucs


def _floor(v: Floats, rng: np.random.Generator, folds: int, shared_variance: bool, halvings: int) -> NoiseFloor | None:
    def attack(ours: Floats, theirs: Floats) -> float:
        return float(_cross_fit(ours, theirs, rng, folds, shared_variance)[0].mean())

    return of_halves(attack, v, rng, halvings, MIN_PAIRS)
