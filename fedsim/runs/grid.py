"""Which runs a sweep consists of: each combination of the values given, for each seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.config.errors import shown
from fedsim.config.resolve import texts_in
from fedsim.config.texts import text_kind
from fedsim.errors import FedsimError

_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class GridCell:
    """One run of a sweep."""

    name: str
    """Name of the run's folder."""
    options: Mapping[str, Any]
    """The options in which it differs from the other runs, by dotted key; `seed` is one of them."""


def read_seeds(text: str) -> list[int]:
    """Return the seeds of a text such as `0-4`, `7` or `0-2,9`, in that order.

    Raises
    ------
    FedsimError
        If the text names no seed, or one seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part)
        if match is None or int(match[2] or match[1]) - int(match[1]) not in range(_MOST_SEEDS):
            raise FedsimError(f"--seeds {text}: must be numbers and ranges of them, such as 0-4 or 0,2,7")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise FedsimError(f"--seeds {text}: names a seed twice")
    return seeds


def split_axes(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return (options that all runs share, values of those that are swept) of dotted overrides.

    A list is swept. An option whose value is a list is swept over a list of lists. A list of texts is never swept.
    """
    shared: dict[str, Any] = {}
    swept: dict[str, list[Any]] = {}
    for key, given in overrides.items():
        listed = text_kind(key) == "text" and isinstance(given, str) and re.fullmatch(r"\[.*\]", given)
        value = texts_in(given) if listed else given
        if not isinstance(value, list) or text_kind(key) == "texts":
            shared[key] = value
        elif not value:
            raise FedsimError(f"--set {key}=[]: names no value; give one or more, such as {key}=[VALUE,VALUE]")
        elif any(one in value[:place] for place, one in enumerate(value)):
            raise FedsimError(f"--set {key}={shown(value)}: names a value twice")
        else:
            swept[key] = value
    if "seed" in overrides:
        raise FedsimError("--set seed: the seeds of a sweep are given as --seeds 0-4")
    return shared, swept


def combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values; the value of the last option changes fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def cells(points: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[GridCell]:
    """Return the runs of all points, seed by seed: a sweep that stops early then has complete repetitions."""
    keys = list(points[0])
    slugs: dict[str, dict[str, str]] = {}
    for key in keys:
        values = list({repr(point[key]): point[key] for point in points}.values())
        slugs[key] = dict(zip(map(repr, values), _slugs(_label(key, keys), values), strict=True))
    return [
        GridCell(
            "-".join([*(slugs[key][repr(value)] for key, value in point.items()), f"seed{seed}"]),
            {**point, "seed": seed},
        )
        for seed in seeds
        for point in points
    ]


def _label(key: str, axes: Sequence[str]) -> str:
    """Return the part of a folder's name that names an option; empty if the values are clear without it."""
    last = key.rpartition(".")[2]
    if last == "name":
        return ""
    alone = sum(other.rpartition(".")[2] == last for other in axes) == 1
    return last if alone else key.replace(".", "_")


def _slugs(label: str, values: Sequence[Any]) -> list[str]:
    """Return a different text for each value; no text contains the separator."""
    slugs: list[str] = []
    for value in values:
        slug = label + re.sub(r"[^A-Za-z0-9.]+", "_", _text(value)).strip("_.")
        slug = slug if re.match(r"[A-Za-z0-9]", slug) else f"value{slug}"
        while slug in slugs:
            slug += "_"
        slugs.append(slug)
    return slugs


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(map(_text, value))
    text = str(value)
    return Path(text).stem if "/" in text else text
