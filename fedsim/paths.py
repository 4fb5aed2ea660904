"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from fedsim.errors import FedsimError


def expanded(path: str | Path) -> Path:
    """Return a path with the home directory in the place of ~.

    Raises
    ------
    FedsimError
        If there is no such directory, as for an account of a container.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FedsimError(f"{path}: there is no home directory to put in the place of ~; give the whole path") from None
