"""What takes most of the time of a small run or outcome is left out of tests, unless a test looks at it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from matplotlib.figure import Figure

from fedsim.report.figures import Plot, png
from unlearning.pipeline import page, runner

Parts = Mapping[object, Mapping[str, Any]]

_LIGHT: Parts = {
    Plot: {"png": png(Figure(figsize=(0.1, 0.1))), "svg": '<svg role="img"></svg>'},
    page: {"plots": lambda *_: []},
    runner: {"_COMPARED_SEEDS": 1},
}
_REAL: Parts = {owner: {name: getattr(owner, name) for name in some} for owner, some in _LIGHT.items()}


@contextmanager
def light() -> Iterator[None]:
    """Draw no pictures, and compare with one oracle unless told otherwise."""
    with _set(_LIGHT):
        yield


@contextmanager
def as_for_users() -> Iterator[None]:
    """Leave out nothing inside this block."""
    with _set(_REAL):
        yield


@contextmanager
def _set(parts: Parts) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, some in parts.items():
            for name, value in some.items():
                patch.setattr(owner, name, value)
        yield
