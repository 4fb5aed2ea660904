"""Measures the peak memory of a block of code, relative to the memory at its start."""

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
    """The measured peak, set when the block ends."""

    megabytes: float | None = None
    """Peak in units of 10^6 bytes; None if the system does not report it."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the block: on a GPU by torch's allocator, else by the resident memory of this process (Linux)."""
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
    """Reset the peak of the system's counter, and return the current memory; None if there is no such counter."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # otherwise the block reuses freed memory and seems to take none
        _RESET.write_text("5")
        return _resident("VmRSS")
    except (OSError, AttributeError, KeyError, ValueError):
        return None


def _resident(field: str) -> float:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * float(lines[field].split()[0])
