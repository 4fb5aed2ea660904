"""Places by distance to the oracle, where differences that retrained models show among themselves are ties."""

from __future__ import annotations

import math
from collections.abc import Mapping


def places(distances: Mapping[str, float | None], floor: float) -> dict[str, int]:
    """Return the place of each name, from 1, nearest first; None, a model without a distance, comes last.

    All that are at most `floor` from the oracle share the first place. Of the others, those that are at most `floor`
    farther than the nearest of their group share a place.
    """
    known = {name: math.inf if distance is None else distance for name, distance in distances.items()}
    out: dict[str, int] = {}
    start, place = 0.0, 1
    for number, (name, distance) in enumerate(sorted(known.items(), key=lambda item: (item[1], item[0])), 1):
        if distance - start > floor:  # never of two that are infinite, as their difference is not a number
            start, place = distance, number
        out[name] = place
    return out
