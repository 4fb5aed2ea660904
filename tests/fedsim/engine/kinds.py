"""The engines that every engine test runs on."""

from collections.abc import Callable
from typing import Any

import pytest

from fedsim.engine.base import Engine

MakeEngine = Callable[..., Engine]

# Ray leaves the files and the processes of its daemons to the garbage collector.
RAY_LEFTOVERS = [
    pytest.mark.filterwarnings("ignore:unclosed file .*/dev/null:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning"),
]

ENGINES = ["inprocess", "local-2", "ray-1", "ray-2"]


def marked(case: Any) -> Any:
    """Return a parameter, or several whose first is an engine, with the marks of that engine."""
    values = case if isinstance(case, tuple) else (case,)
    marks = [pytest.mark.ray] if values[0].startswith("ray") else []
    if values[0] == "ray-1":  # two workers show more, and sooner
        marks.append(pytest.mark.slow)
    return pytest.param(*values, marks=marks)
