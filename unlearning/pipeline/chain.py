"""Requests in sequence: the accuracy on each request's samples, after each of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedsim.flower.records import from_numpy
from fedsim.models.base import Classifier
from unlearning.api.view import View
from unlearning.pipeline.measure import Measured, accuracy_on
from unlearning.pipeline.roles import Roles
from unlearning.pipeline.source import IntArray, Source


class Step(BaseModel):
    """A model of the first seed, after a request; accuracies are in [0, 1]."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    spec: str
    """The request."""
    model: str
    """The method whose model was delivered; "original" before the first request; or "oracle"."""
    forgotten: list[float | None]
    """Accuracy on the samples of each request up to this one, in order; None if the samples were deleted."""
    retain: float
    """Accuracy on the samples that are kept after this request."""
    test: float


def steps_of(
    source: Source, roles: Roles, spec: str, models: Mapping[str, tuple[Classifier, Measured]]
) -> Iterator[Step]:
    """Yield the steps for these models, with their measurements, after the request `spec` to a source.

    Models whose outputs are not finite are left out.
    """
    views = [_rows(source, roles.retain, request.rows) for request in source.earlier]
    for name, (model, measured) in models.items():
        if measured.facts is not None:
            earlier = [accuracy_on(model, view) if len(view) else None for view in views]
            forget, retain, test = (measured.values[f"accuracy_{role}"] for role in ("forget", "retain", "test"))
            yield Step(spec=spec, model=name, forgotten=[*earlier, forget], retain=retain, test=test)


def _rows(source: Source, like: View, rows: IntArray) -> View:
    """Return training rows that an earlier request forgot."""
    dataset = source.whole or source.data.dataset
    x, y = (from_numpy(np.asarray(getattr(dataset, f"{array}_train")[rows])).to(like.x.device) for array in "xy")
    return replace(like, x=x, y=y)
