"""Runs side by side: each in a process of its own, so many at a time, and none of them outlives this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.interrupts import heeding_signals
from fedsim.runs.progress import QuietProgress


@dataclass(frozen=True)
class RunJob:
    """A run that is to be brought to its end."""

    name: str
    folder: Path
    """Of the run: one that is there goes on."""
    layers: Sequence[Mapping[str, Any]]
    """Of its configuration, but for its name and place."""
    allowed: Sequence[Mapping[str, Any]]
    """Those of the layers that the user has typed, whose files may run."""
    log: Path
    """What the process prints; removed when all went well."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this machine, for a run that goes on."""
    like: Path | None = None
    """The run folder that the first layer is from, if it is."""
    cwd: Path = field(default_factory=Path.cwd)
    """Where relative paths begin, on a machine that has such a folder."""


class RunNews(NamedTuple):
    """How far a run is."""

    number: int
    of: int
    metrics: Mapping[str, float]
    """Of that round."""


class Board(Protocol):
    """What is told of runs side by side."""

    def began(self, name: str) -> None:
        """Say that a run has a process."""

    def round_done(self, name: str, server_round: int, rounds: int, metrics: Mapping[str, float]) -> None:
        """Say how far a run is."""

    def ended(self, name: str, error: str | None) -> None:
        """Say that a run is finished, or why it is not."""


class RunProcess:
    """A job at work in a process of its own, which ends with this one."""

    def __init__(self, job: RunJob, gpus: str | None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fedsim.runs.runner"])  # which costs seconds, once
        self.job = job
        self.pipe, there = context.Pipe(duplex=False)
        """What becomes readable when it has something to tell, or has ended."""
        self.error: str | None = None
        """Why the run is not finished, once the process has ended."""
        self._told = False
        self._process = context.Process(target=_work, args=(job, gpus, there), name=job.name)
        self._process.start()
        there.close()

    def news(self) -> RunNews | None:
        """Return what it tells; None when it has ended."""
        while True:
            try:
                kind, *what = self.pipe.recv()
            except (EOFError, OSError):
                self._process.join()
                self.pipe.close()
                if not self._told:
                    self.error = f"its process died ({_ending(self._process.exitcode)})"
                return None
            if kind == "round":
                return RunNews(*what)
            self._told, self.error = True, what[0]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold it: its folder is as a kill would leave it, and it goes on afterwards."""
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            _wait_until_stopped(pid)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Have it keep its last round and end; `end` waits for that."""
        self._process.terminate()

    def end(self) -> None:
        """Wait until it is gone."""
        self._process.join()


def pack(jobs: Sequence[RunJob], slots: Sequence[str | None], board: Board) -> dict[str, str]:
    """Bring all runs to their ends, as many at a time as there are slots; returns why those failed that did, by name.

    A run that fails, or whose process dies, costs no other run anything. An interrupt stops all at their last rounds.
    A slot is the GPU that its process sees, as CUDA_VISIBLE_DEVICES has it, or None for whatever this process sees.
    """
    waiting, free = deque(jobs), deque(slots)
    running: dict[Any, tuple[RunProcess, str | None]] = {}
    failures: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.popleft(), free.popleft()
                process = RunProcess(job, slot)
                running[process.pipe] = process, slot
                board.began(job.name)
            for pipe in wait(list(running)):
                process, slot = running[pipe]
                news = process.news()
                if news is not None:
                    board.round_done(process.job.name, *news)
                    continue
                del running[pipe]
                free.append(slot)
                if process.error is not None:
                    failures[process.job.name] = process.error
                board.ended(process.job.name, process.error)
    except BaseException:
        for process, _ in running.values():
            process.stop()
        for process, _ in running.values():
            process.end()
        raise
    return failures


def _wait_until_stopped(pid: int) -> None:
    """Wait for a signal to take effect, where the system tells."""
    with contextlib.suppress(OSError):
        for _ in range(1000):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtZX":
                return
            time.sleep(0.001)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


# In the process of a run ----------------------------------------------------------------------------------------------


class _Telling(QuietProgress):
    """Sends how a run goes to the process that packs the runs."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._rounds = pipe, 0

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Tell where it begins."""
        self._rounds = config.rounds
        self._pipe.send(("round", rounds_done, config.rounds, {}))

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Tell of a round."""
        self._pipe.send(("round", server_round, self._rounds, metrics))


def _work(job: RunJob, gpus: str | None, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that packs the runs says when to stop
    _end_with_parent()
    if job.cwd.is_dir():
        os.chdir(job.cwd)
    job.log.parent.mkdir(exist_ok=True)
    with job.log.open("wb", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    try:
        with heeding_signals():
            _run(job, _Telling(pipe))
    except KeyboardInterrupt:
        pipe.send(("ended", "interrupted"))
    except FedsimError as error:
        print(f"error: {error}", flush=True)  # noqa: T201 -- into the log
        pipe.send(("ended", str(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("ended", f"{type(error).__name__}: {error}"))
    else:
        job.log.unlink()
        pipe.send(("ended", None))


def _run(job: RunJob, progress: QuietProgress) -> None:
    from fedsim.config.resolve import allow_named
    from fedsim.runs import runner

    for layer in job.allowed:
        allow_named(layer)
    if job.folder.exists():
        runner.resume(job.folder, progress, overrides=job.machine, pictures=False)
    else:
        layers = [*job.layers, {"out": str(job.folder.parent), "name": job.folder.name}]
        runner.run_layers(layers, force=False, progress=progress, like=job.like, pictures=False)


def _end_with_parent() -> None:
    """Have this process killed when the one that packs the runs is gone: a run can go on from any kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
