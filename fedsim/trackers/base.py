"""The interface of trackers, and how the requested trackers are found."""

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
    """Passes on the metrics of every round. Each module of this package names its tracker `OF_THIS_FILE`.

    Parameters
    ----------
    folder
        The run's folder.
    config
        The run's resolved configuration.
    done
        Rounds that the run has completed. A resumed run continues in the same track.
    """

    @abstractmethod
    def __init__(self, folder: Path, config: RunConfig, done: int) -> None: ...

    @abstractmethod
    def log(self, server_round: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a round."""

    @abstractmethod
    def close(self) -> None:
        """Flush and close: the run has ended or was stopped. A stopped run may be resumed later."""

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        """Record the metrics of the round that just ended."""
        self.log(state.round, metrics)


def tracker_names() -> list[str]:
    """Return the names of all trackers."""
    return sorted(module.name for module in pkgutil.iter_modules(fedsim.trackers.__path__) if module.name != "base")


def tracker_classes(names: Sequence[str]) -> list[type[Tracker]]:
    """Return the trackers with these names.

    Raises
    ------
    FedsimError
        If a name is unknown, or its package is not installed.
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
    """Return a run's options as {dotted key: value}."""
    return dict(flatten(config.model_dump(mode="json")))


def kept_id(folder: Path, tracker: str, make: Callable[[], str]) -> str:
    """Return the tracker's id of the run. The run folder stores it; `make` creates it the first time."""
    path = folder / f"{tracker}.id"
    if path.is_file() and re.fullmatch(r"[0-9a-f]{8,64}", text := path.read_text(encoding="utf-8", errors="replace")):
        return text
    new = make()
    write_atomically(path, new.encode(), folders=True)
    return new
