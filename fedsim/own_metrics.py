"""Metrics of one's own: functions of a user's files, measured wherever a global model is tested."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.errors import FedsimError, reason_of
from fedsim.plugins import own_function, plugin_of

Outputs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OwnMetric:
    """A function of a user's file."""

    function: Callable[[Outputs, npt.NDArray[Any]], float]
    """(logits (N, C) or numbers (N, 1), targets (N,)) -> the metric."""
    sentence: str
    """What it is: the first line of its docstring."""

    def __call__(self, outputs: Outputs, targets: npt.NDArray[Any]) -> float:
        """Return the metric.

        Raises
        ------
        FedsimError
            If the function fails, or returns no number.
        """
        try:
            return float(self.function(outputs, targets))
        except Exception as error:
            raise FedsimError(f"metrics: {self.function.__name__}() fails ({reason_of(error)}); mend it") from error


def load_own_metrics(names: Sequence[str]) -> Mapping[str, OwnMetric]:
    """Return the metrics that files like `./mine.py:name` define, by the functions' names.

    Raises
    ------
    FedsimError
        If there is none in a file, or two have one name.
    """
    found: dict[str, OwnMetric] = {}
    for name in names:
        plugin = plugin_of(name)
        if plugin is None:
            raise FedsimError(f"metrics: {name} is no file of yours; give one, such as ./mine.py:name")
        function = own_function(plugin, "metrics", "a function of outputs and targets")
        if function.__name__ in found:
            raise FedsimError(f"metrics: two are called {function.__name__}; rename one")
        found[function.__name__] = OwnMetric(function, (inspect.getdoc(function) or "").split("\n")[0].rstrip("."))
    return found
