"""The most memory that a piece of work takes beyond what is held when it begins."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """What was measured, once the work is done."""

    megabytes: float | None = None
    """Of 10^6 bytes; None where the system does not tell."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the block: on a GPU by torch's allocator, else the resident memory of this process (Linux)."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.megabytes = (torch.cuda.max_memory_allocated(device) - before) / 1e6
        return
    held = _begin()
    yield peak
    if held is not None:
        peak.megabytes = max(0.0, (_resident("VmHWM") - held) / 1e6)


def _begin() -> float | None:
    """Set the high-water mark back to what is held, and return that; None where there is no such mark."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else the block is served from what others freed, and seems to take nothing
        _RESET.write_text("5")
        return _resident("VmRSS")
    except (OSError, AttributeError, KeyError, ValueError):
        return None


def _resident(field: str) -> float:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * float(lines[field].split()[0])
