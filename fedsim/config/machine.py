"""Settings of this machine: where to write, what to compute on, whom to connect to, which port to open.

They come from the command line, from Python, or from the user's own file, and never from a configuration. A preset, a
file or a run folder may come from somebody else, who could then choose to whom this machine sends its data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import FedsimError, nearest

MACHINE_SETTINGS = ("out", "log", "engine.device", "engine.ray_address", "engine.dashboard", "engine.dashboard_port")

CHOSEN_ANEW = (
    *MACHINE_SETTINGS, "engine.name", "engine.num_workers", "engine.cpus_per_worker", "engine.gpus_per_worker",
    "engine.retries", "engine.chunk_timeout_s", "engine.state_memory_mb",
)  # fmt: skip
"""What a run that goes on takes beside the configuration of its folder; none of it changes a bit of the result."""


def settings_file() -> Path:
    """Return the path of the user's own settings, which need not exist."""
    try:
        home = Path.home()
    except RuntimeError:  # an account without one
        home = Path("/nonexistent")
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fedsim" / "settings.yaml"


def without_machine_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration, dotted keys allowed, without settings of the machine."""
    return {
        key: without_machine_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in MACHINE_SETTINGS
    }


def require_machine_settings(
    given: Mapping[str, Any], where: str, *, taken: tuple[str, ...] = MACHINE_SETTINGS
) -> None:
    """Refuse keys that are not settings of the machine, or not `taken`; the error line starts with `where`."""
    for key in given:
        if key not in taken:
            raise FedsimError(f"{where}: {key} is no setting of this machine; {nearest(key, taken)}")
