"""Users' own metrics: functions in their files, computed wherever a global model is tested."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedsim.errors import FedsimError, reason_of
from fedsim.installed import own_or_installed


@dataclass(frozen=True)
class OwnMetric:
    """A function of a user's file, or of an installed package."""

    function: Callable[[Any, Any], float]
    """(logits (N, C) or numbers (N, 1), targets (N,)) -> the metric; for forgetting, both by role."""
    sentence: str
    """Description: the first line of the function's docstring."""

    where: str = "metrics"
    """The start of error messages."""

    def __call__(self, outputs: Any, targets: Any) -> float:
        """Return the metric.

        Raises
        ------
        FedsimError
            If the function fails, or returns no number.
        """
        try:
            return float(self.function(outputs, targets))
        except Exception as error:
            raise FedsimError(
                f"{self.where}: {self.function.__name__}() fails ({reason_of(error)}); correct it"
            ) from error


def load_own_metrics(
    names: Sequence[str], where: str = "metrics", kind: Literal["metrics", "forgetting_metrics"] = "metrics"
) -> Mapping[str, OwnMetric]:
    """Return {function name: metric} for names like `./mine.py:name`, or of installed packages.

    Raises
    ------
    FedsimError
        If a file has no such function, or two functions have the same name.
    """
    what = "a function of outputs and targets" if kind == "metrics" else "a function of outputs and labels by role"
    found: dict[str, OwnMetric] = {}
    for name in names:
        function = own_or_installed(name, kind, where, what)
        if function.__name__ in found:
            raise FedsimError(f"{where}: two functions are called {function.__name__}; rename one")
        sentence = (inspect.getdoc(function) or "").split("\n")[0].rstrip(".")
        found[function.__name__] = OwnMetric(function, sentence or "a metric of your own", where)
    return found
