"""What a run with stages has learned and forgotten, from the accuracy of every class over its rounds.

Forgetting (arXiv:2303.06937, eq. 3): f_j of a stage is the mean over its classes of their highest accuracy in any
earlier round minus their accuracy now; F is the mean of f_j over the stages before the current one. The relative
forgetting R is sum_j f_j / sum_j A_j. We take A_j for the highest accuracy, so that R is the share of what was once
known that is lost.
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
    """Return the accuracy on stage j after stage i at (i, j), NaN where j is yet to come; `ends` (T, C) per class."""
    matrix = stage_accuracies(ends, blocks)
    matrix[np.triu_indices(len(ends), 1, len(blocks))] = np.nan
    return matrix


def forgetting(per_class: Floats, blocks: Classes) -> tuple[float, float]:
    """Return (F, R) after the last of some rounds, (R, C) accuracies per class, NaN where a class was not there yet.

    `blocks` are the classes of the stages so far; of the last one nothing can have been forgotten. NaN for one stage.
    """
    past = np.concatenate(blocks[:-1]) if len(blocks) > 1 else np.empty(0, np.int64)
    earlier = per_class[:-1]
    measured = past[np.isfinite(earlier[:, past]).any(0)]  # a class may have no test sample
    if not len(measured):
        return float("nan"), float("nan")
    peaks = np.full(per_class.shape[1], np.nan)
    peaks[measured] = np.nanmax(earlier[:, measured], axis=0)
    best, lost = (stage_accuracies(values, blocks[:-1]) for values in (peaks, peaks - per_class[-1]))
    return float(np.nanmean(lost)), float(np.nansum(lost) / max(np.nansum(best), 1e-12))


def forgetting_at_ends(matrix: Floats) -> float:
    """Return the mean over stages but the last of an accuracy matrix (T, T) of the highest end-of-stage accuracy lost.

    Unlike `forgetting`, peaks within a stage do not count, and a stage is taken as a whole. NaN for one stage.
    """
    earlier = matrix[:-1, : len(matrix) - 1]
    return float(np.nanmean(np.nanmax(earlier, axis=0) - matrix[-1, :-1])) if earlier.size else float("nan")


def measures(per_class: Floats, rounds: Sequence[int], blocks: Classes, ends: Sequence[int]) -> dict[str, float]:
    """Return what the last of some measured rounds tells of the stages; nothing in the first stage.

    Parameters
    ----------
    per_class
        (R, C) accuracies, NaN where a class was not there yet.
    rounds
        The R rounds they were measured in, ascending.
    blocks
        The classes of every stage that has begun.
    ends
        The last round of each of them, ascending; the current one may go on beyond what was measured.
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
