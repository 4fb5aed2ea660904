"""Measures of learning and forgetting over stages, from the accuracy of every class over the rounds of a run.

Forgetting (arXiv:2303.06937, eq. 3): f_j of a stage is the mean over its classes of their highest accuracy in any
earlier round minus their present accuracy; F is the mean of f_j over the stages before the current one. The relative
forgetting R is sum_j f_j / sum_j A_j. We take the highest accuracy as A_j, so R is the lost share of the accuracy that
was reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Classes = Sequence[npt.NDArray[np.int64]]


def stage_accuracies(per_class: Floats, blocks: Classes) -> Floats:
    """Return the mean accuracy over the classes of each stage, (..., C) -> (..., T); NaN if none has been measured."""
    with np.errstate(invalid="ignore"):
        known = np.isfinite(per_class)
        filled = np.where(known, per_class, 0.0)
        return np.stack([filled[..., b].sum(-1) / known[..., b].sum(-1) for b in blocks], axis=-1)


def accuracy_matrix(ends: Floats, blocks: Classes) -> Floats:
    """Return the accuracy on stage j after stage i at (i, j), NaN for later stages j; `ends` (T, C) per class."""
    matrix = stage_accuracies(ends, blocks)
    matrix[np.triu_indices(len(ends), 1, len(blocks))] = np.nan
    return matrix


def forgetting(per_class: Floats, blocks: Classes) -> tuple[float, float]:
    """Return (F, R) after the last of some rounds, from (R, C) accuracies per class, NaN for classes not present.

    `blocks` are the classes of the stages so far; nothing of the last one can be forgotten. NaN for a single stage.
    """
    past = np.concatenate(blocks[:-1]) if len(blocks) > 1 else np.empty(0, np.int64)
    earlier = per_class[:-1]
    measured = past[np.isfinite(earlier[:, past]).any(0)]  # a class may have no test samples
    if not len(measured):
        return float("nan"), float("nan")
    peaks = np.full(per_class.shape[1], np.nan)
    peaks[measured] = np.nanmax(earlier[:, measured], axis=0)
    best, lost = (stage_accuracies(values, blocks[:-1]) for values in (peaks, peaks - per_class[-1]))
    return float(np.nanmean(lost)), float(np.nansum(lost) / max(np.nansum(best), 1e-12))


def forgetting_at_ends(matrix: Floats) -> float:
    """Return the mean drop from the highest end-of-stage accuracy, over all stages but the last; `matrix` is (T, T).

    Unlike `forgetting`, peaks within a stage do not count, and a stage counts as a whole. NaN for a single stage.
    """
    earlier = matrix[:-1, : len(matrix) - 1]
    return float(np.nanmean(np.nanmax(earlier, axis=0) - matrix[-1, :-1])) if earlier.size else float("nan")


def measures(per_class: Floats, rounds: Sequence[int], blocks: Classes, ends: Sequence[int]) -> dict[str, float]:
    """Return the measures after the last of some rounds; {} in the first stage.

    Parameters
    ----------
    per_class
        (R, C) accuracies, NaN for classes not present yet.
    rounds
        The R rounds in which they were measured, ascending.
    blocks
        The classes of every stage that has begun.
    ends
        The last round of each of them, ascending; that of the current stage may be after the last measured round.
    """
    if len(blocks) < 2:
        return {}
    f, r = forgetting(per_class, blocks)
    now = stage_accuracies(per_class[-1], (np.concatenate(blocks[:-1]), blocks[-1]))
    out = {"accuracy_old": float(now[0]), "accuracy_new": float(now[1]), "forgetting": f, "relative_forgetting": r}
    rows = [max((i for i, number in enumerate(rounds) if number <= end), default=-1) for end in ends]
    if rows[-1] == len(rounds) - 1 and len(set(rows)) == len(rows) and min(rows) >= 0:
        out["forgetting_ends"] = forgetting_at_ends(accuracy_matrix(per_class[rows], blocks))
    return {name: value for name, value in out.items() if np.isfinite(value)}
