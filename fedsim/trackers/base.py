"""What a tracker is, and how those that are asked for are found and opened."""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fedsim.trackers
from fedsim.atomic import write_atomically
from fedsim.config.run import RunConfig, flatten
from fedsim.errors import FedsimError, nearest
from fedsim.runs.observers import RoundObserver
from fedsim.runs.state import Metrics, RunState


class Tracker(RoundObserver):
    """Passes the metrics of every round on. A module of this package names its own `OF_THIS_FILE`.

    Parameters
    ----------
    folder
        Of the run.
    config
        Of the run, resolved.
    done
        Rounds that the run has done: one that goes on goes on in the same track.
    """

    @abstractmethod
    def __init__(self, folder: Path, config: RunConfig, done: int) -> None: ...

    @abstractmethod
    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a round."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left; the run has ended, or goes on some other time."""

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Write the round's metrics."""
        self.log(state.round, metrics)


def tracker_names() -> list[str]:
    """Return the trackers that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(fedsim.trackers.__path__) if module.name != "base")


def tracker_classes(names: Sequence[str]) -> list[type[Tracker]]:
    """Return the trackers of these names.

    Raises
    ------
    FedsimError
        If there is none of a name, or its package is not installed.
    """
    found = []
    for name in names:
        if name not in tracker_names():
            raise FedsimError(f"log: no tracker {name!r}; {nearest(name, tracker_names())}")
        try:
            module = importlib.import_module(f"fedsim.trackers.{name}")
        except ImportError:
            raise FedsimError(f"log: {name} is not installed; install it with: pip install 'fedsim[{name}]'") from None
        found.append(module.OF_THIS_FILE)
    return found


def options_of(config: RunConfig) -> dict[str, Any]:
    """Return a run's options by dotted key, as trackers list them."""
    return dict(flatten(config.model_dump(mode="json")))


def kept_id(folder: Path, tracker: str, make: Callable[[], str]) -> str:
    """Return the name that a tracker has for the run; the folder keeps it, and has it made where there is none."""
    path = folder / f"{tracker}.id"
    if path.is_file() and re.fullmatch(r"[0-9a-f]{8,64}", text := path.read_text(encoding="utf-8", errors="replace")):
        return text
    new = make()
    write_atomically(path, new.encode(), folders=True)
    return new
