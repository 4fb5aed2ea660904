"""Measurements of a row while it runs in its own process: time, CPU time and memory of the process tree."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import torch

_WATCHED = 2  # rounds after the timed ones, in which memory is sampled
_EVERY_S = 0.02


class Meter:
    """Counts the rounds of a row: one warm-up round, `rounds` timed rounds, and some rounds that sample memory.

    Parameters
    ----------
    rounds
        Timed rounds.
    begun
        `time.time()` when the process was started.
    device
            Device to synchronise with at the end of every round.
    """

    def __init__(self, rounds: int, begun: float, device: torch.device) -> None:
        self.timed, self.total = rounds, 1 + rounds + _WATCHED
        self.device = device
        self.seconds: list[float] = []
        """Seconds of each timed round."""
        self.startup_s = self.cpu_s = self.cpu_total_s = self.memory_mb = 0.0
        self._begun, self._laps = begun, 0
        self._lap_begun = self._cpu_before = 0.0
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def lap(self) -> None:
        """Record the end of a round."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._laps += 1
        if self._laps == 1:
            self.startup_s = time.time() - self._begun
            self._cpu_before = cpu_seconds()
        elif self._laps <= 1 + self.timed:
            self.seconds.append(now - self._lap_begun)
        if self._laps == 1 + self.timed:
            self.cpu_total_s = cpu_seconds()
            self.cpu_s = (self.cpu_total_s - self._cpu_before) / self.timed
            self._watcher.start()
        if self._laps == self.total:
            self._stop.set()
            self._watcher.join()
        self._lap_begun = time.perf_counter()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(_EVERY_S)  # one more sample after the last round
            self.memory_mb = max(self.memory_mb, memory_mb())

    def report(self) -> dict[str, float | list[float]]:
        """Return the measurements; memory is in MB of 10^6 bytes."""
        on_gpu = self.device.type == "cuda"
        return {
            "seconds": self.seconds,
            "startup_s": self.startup_s,
            "cpu_s": self.cpu_s,
            "cpu_total_s": self.cpu_total_s,
            "memory_mb": self.memory_mb,
            "peak_rss_mb": _peak_rss_mb(),
            "gpu_mb": torch.cuda.max_memory_allocated(self.device) / 1e6 if on_gpu else 0.0,
        }


def _peak_rss_mb() -> float:
    """Return the largest resident memory of this process; getrusage would include that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def _tree() -> dict[int, list[str]]:
    """Return {process: fields of its /proc/PID/stat from the state on} of this process and all its descendants."""
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command in parentheses may itself contain spaces and parentheses.
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # the process has ended
                continue
    tree = {os.getpid()}
    for pid in sorted(stats, key=lambda pid: int(stats[pid][19])):  # by start time: parents come before children
        if int(stats[pid][1]) in tree:
            tree.add(pid)
    return {pid: stats[pid] for pid in tree if pid in stats}


def cpu_seconds() -> float:
    """Return the CPU time of this process tree in seconds, including ended children."""
    return sum(sum(map(int, fields[11:15])) for fields in _tree().values()) / os.sysconf("SC_CLK_TCK")


def memory_mb() -> float:
    """Return the memory of this process tree in MB; shared pages count once (PSS)."""
    total = 0
    for pid in _tree():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6
