"""Runs several runs in parallel, each in its own process; all processes end with this one."""

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
    """A run to be started, or continued, until it is finished."""

    name: str
    folder: Path
    """The run folder; a run that exists is continued."""
    layers: Sequence[Mapping[str, Any]]
    """Layers of the configuration, without the run's name and folder."""
    allowed: Sequence[Mapping[str, Any]]
    """The layers that the user has typed; plugin files named in them may be run."""
    log: Path
    """File for the output of the process; removed if the run succeeds."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Machine settings for a run that is continued."""
    like: Path | None = None
    """The run folder that the first layer comes from, if any."""
    cwd: Path = field(default_factory=Path.cwd)
    """Working directory for relative paths, used if it exists on the machine."""


class RunNews(NamedTuple):
    """Progress of a run."""

    number: int
    of: int
    metrics: Mapping[str, float]
    """Metrics of that round."""


class Board(Protocol):
    """Receives the progress of runs that are executed in parallel."""

    def began(self, name: str) -> None:
        """Show that a run has started."""

    def round_done(self, name: str, server_round: int, rounds: int, metrics: Mapping[str, float]) -> None:
        """Show the progress of a run."""

    def ended(self, name: str, error: str | None) -> None:
        """Show that a run is finished, or why it failed."""


class RunProcess:
    """A job in a process of its own, which ends when this process ends."""

    def __init__(self, job: RunJob, gpus: str | None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fedsim.runs.runner"])  # takes seconds, only once
        self.job = job
        self.pipe, there = context.Pipe(duplex=False)
        """Messages of the process; it is at its end when the process has ended."""
        self.error: str | None = None
        """Why the run failed, after the process has ended; None if it succeeded."""
        self._told = False
        self._process = context.Process(target=_work, args=(job, gpus, there), name=job.name)
        self._process.start()
        there.close()

    def news(self) -> RunNews | None:
        """Return the next message; None if the process has ended."""
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
        """Pause the process; its folder is then in the state that a kill would leave."""
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
        """Ask the process to save its last round and to end; `end` waits for that."""
        self._process.terminate()

    def end(self) -> None:
        """Wait until the process has ended."""
        self._process.join()


def pack(jobs: Sequence[RunJob], slots: Sequence[str | None], board: Board) -> dict[str, str]:
    """Execute all runs, as many at a time as there are slots; return the reasons of failed runs, by name.

    A run that fails, or whose process dies, does not affect other runs. An interrupt stops all after their last rounds.
    A slot is the value of CUDA_VISIBLE_DEVICES for its process, or None for the GPUs that this process sees.
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
    """Wait until the process has stopped, on systems that report it."""
    with contextlib.suppress(OSError):
        for _ in range(1000):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtZX":
                return
            time.sleep(0.001)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


# In the process of a run ----------------------------------------------------------------------------------------------


class _Telling(QuietProgress):
    """Sends the progress of a run to the parent process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._rounds = pipe, 0

    def begin(self, config: RunConfig, choices: dict[str, str], rounds_done: int) -> None:
        """Send the first round."""
        self._rounds = config.rounds
        self._pipe.send(("round", rounds_done, config.rounds, {}))

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        """Send the metrics of a round."""
        self._pipe.send(("round", server_round, self._rounds, metrics))


def _work(job: RunJob, gpus: str | None, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides when to stop
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
    """Kill this process when its parent ends; the run can be continued after any kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
