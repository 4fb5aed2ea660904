"""Measures annotations of samples against true labels, which are not used for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from fedsim.federated.types import Audit
from fedsim.flower.records import from_numpy
from fedsim.training.streams import Annotated


def measured(
    audits: Sequence[tuple[Audit, Sequence[Annotated | None]]], y: npt.NDArray[np.generic], device: torch.device
) -> dict[str, npt.NDArray[np.float64]]:
    """Return each metric of the audits, (clients,), NaN where a client has none; `y` are all true labels (N,)."""
    out: dict[str, npt.NDArray[np.float64]] = {}
    for audit, annotated in audits:
        for row, each in enumerate(annotated):
            if each is not None:
                labels = from_numpy(y[each.rows]).to(device)
                for name, value in audit(each.annotation, labels).items():
                    out.setdefault(name, np.full(len(annotated), np.nan))[row] = float(value)
    return out
