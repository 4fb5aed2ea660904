"""Describes the software and the class of machine of a run, for its record."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from fedsim.version import VERSION

_LIBRARIES = ("torch", "torchvision", "flwr", "ray", "numpy", "opacus", "scikit-learn", "flwr-datasets")


def versions() -> dict[str, str]:
    """Return the versions of fedsim, Python and the libraries that affect results; missing libraries are left out."""
    found = {"fedsim": VERSION, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_sha256() -> str:
    """Return the SHA-256 of the sources of the three packages on disk, at the first call."""
    digest = hashlib.sha256()
    for package in ("fedsim", "strategies", "unlearning"):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations if spec is not None else None) or ():
            for file in sorted(Path(place).rglob("*.py")):
                name, content = file.relative_to(place).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{package}/{name} {content}\n".encode())
    return digest.hexdigest()


def code_in_use() -> dict[str, str]:
    """Return the hash of our sources, and the versions of the libraries that this process has imported."""
    libraries = ("numpy", "torch", "flwr")
    versions_in_use = {
        name: str(getattr(sys.modules[name], "__version__", "unknown")) for name in libraries if name in sys.modules
    }
    return {"fedsim": code_sha256(), "python": platform.python_version(), **versions_in_use}


def environment(device: torch.device) -> dict[str, Any]:
    """Return the class of machine and all versions, but nothing that identifies the machine or its user."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "device": str(device),
        **({"gpu": gpu} if gpu else {}),
        "versions": versions(),
        "code_sha256": code_sha256(),
    }
