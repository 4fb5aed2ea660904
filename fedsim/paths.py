"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from fedsim.errors import FedsimError


def expanded(path: str | Path) -> Path:
    """Return a path with ~ replaced by the home directory.

    Raises
    ------
    FedsimError
        If there is no home directory, as for some accounts in containers.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FedsimError(f"{path}: there is no home directory for ~; give the whole path") from None
