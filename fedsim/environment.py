"""What a run was made on, for its record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from fedsim.version import VERSION

_LIBRARIES = ("torch", "torchvision", "flwr", "ray", "numpy", "opacus", "scikit-learn", "flwr-datasets")


def versions() -> dict[str, str]:
    """Return the versions of fedsim, Python and the libraries that shape results; those not installed are left out."""
    found = {"fedsim": VERSION, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """Return the machine's class and the versions; nothing that identifies the machine or its user."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "device": str(device),
        **({"gpu": gpu} if gpu else {}),
        "versions": versions(),
    }
