"""Ranks by distance to the oracle; differences as small as those between retrained models are ties."""

from __future__ import annotations

import math
from collections.abc import Mapping


def places(distances: Mapping[str, float | None], floor: float) -> dict[str, int]:
    """Return the rank of each name, from 1, nearest first; a model without a distance (None) comes last.

    All models that are at most `floor` from the oracle share the first place. Among the others, models at most `floor`
    farther than the nearest of their group share a place.
    """
    known = {name: math.inf if distance is None else distance for name, distance in distances.items()}
    out: dict[str, int] = {}
    start, place = 0.0, 1
    for number, (name, distance) in enumerate(sorted(known.items(), key=lambda item: (item[1], item[0])), 1):
        if distance - start > floor:  # never for two infinite distances, whose difference is not a number
            start, place = distance, number
        out[name] = place
    return out
