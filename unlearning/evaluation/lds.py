"""LDS, the linear datamodeling score: how well attributions rank real retrainings.

It uses models trained on masks z_m (M, U) that were not used for the attribution. The margins of a target t are
compared with the sums of attributions, sum_u z_mu tau_tu, by rank correlation (Spearman) over the models; the score is
the mean over targets. "TRAK: Attributing Model Behavior at Scale" (arXiv:2303.14186), section 2. The margins also
depend on the seeds of the models, which limits the score: even the true effects score less than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lds:
    """The score over all targets."""

    value: float
    """Mean rank correlation in [-1, 1]; 0 for uninformative attributions."""
    low: float
    """Lower end of the 95 % interval over models, from 500 bootstrap draws; `high` is the upper end."""
    high: float
    models: int


def lds(scores: Floats, masks: npt.NDArray[np.bool_], margins: Floats, rng: np.random.Generator) -> Lds:
    """Return the score of attributions (T, U) from masks (M, U) and margins (M, T), M at least 3."""
    if len(masks) < 3 or margins.shape != (len(masks), len(scores)):
        raise ValueError(f"LDS needs 3 models or more, and margins of each; got {margins.shape} of {len(masks)}")
    told = masks.astype(np.float64) @ scores.T
    draws = [rng.integers(len(masks), size=len(masks)) for _ in range(500)]
    drawn = [_mean_rank_correlation(told[rows], margins[rows]) for rows in draws]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Lds(_mean_rank_correlation(told, margins), float(low), float(high), len(masks))


def _mean_rank_correlation(told: Floats, margins: Floats) -> float:
    """Return the mean over columns of Spearman's correlation between (M, T) and (M, T); 0 for a constant column."""
    ours, theirs = (rankdata(side, axis=0) - (len(side) + 1) / 2 for side in (told, margins))
    spread = np.sqrt((ours**2).sum(0) * (theirs**2).sum(0))
    products = (ours * theirs).sum(0)
    return float(np.mean(np.divide(products, spread, out=np.zeros_like(products), where=spread > 1e-12)))
