"""Keys of configurations that were renamed: old files still load, and one line says the new name."""

from __future__ import annotations

import functools
import sys
from typing import Any

_RENAMED: dict[str, tuple[str, dict[object, str]]] = {
    "training.cohort": ("training.vectorize", {"vectorized": "always", "sequential": "never"}),
}
"""{old key: (new key, {old value: new value})}."""


def renamed(key: str, value: Any) -> tuple[str, Any]:
    """Return a dotted key and its value under their current names."""
    if key not in _RENAMED:
        return key, value
    now, values = _RENAMED[key]
    return now, values.get(value, value) if isinstance(value, str) else value


@functools.cache
def tell_renamed(key: str) -> None:
    """Print the current name of an old key to stderr, once per process."""
    if key in _RENAMED:
        now, values = _RENAMED[key]
        changed = ", ".join(f"{new} for {old}" for old, new in values.items())
        sys.stderr.write(f"note: {key} is called {now} now ({changed})\n")
