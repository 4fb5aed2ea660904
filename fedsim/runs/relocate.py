"""Finds data that were moved after a run; their hash is checked elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import FedsimError
from fedsim.paths import expanded

MOVED = "data.root"
"""The key that names the new folder."""


def relocated(recorded: Mapping[str, Any], root: object) -> dict[str, Any]:
    """Return dotted keys that make a run's configuration find its data in the folder `root`.

    A named data set is looked up there as usual; a file by its own name, with its table of test rows beside it.

    Raises
    ------
    FedsimError
        If a file is missing there.
    """
    if root is None:
        return {}
    folder, data = expanded(str(root)).absolute(), recorded.get("data", {})
    kind, _, file = str(data.get("name", "")).partition(":")
    if not file:
        return {MOVED: str(folder)}
    moved = {"data.name": f"{kind}:{_there(folder, file)}"}
    test = (data.get("csv") or {}).get("test")
    if test is not None and Path(str(test)).is_absolute():
        moved["data.csv.test"] = str(_there(folder, str(test)))
    return moved


def _there(folder: Path, file: str) -> Path:
    path = folder / Path(file).name
    if not path.exists():
        raise FedsimError(f"--data-root {folder}: holds no {path.name}, which the run was trained on")
    return path
