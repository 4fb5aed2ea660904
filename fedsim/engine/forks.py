"""Worker processes that are forked from this one, so they have its data, model and code from the start."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import pickle
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import torch
from flwr.app import ArrayRecord, RecordDict

from fedsim.engine.base import Chunk, ChunkRunner, answer, key_of, lost, predecessors
from fedsim.engine.reply import Reply
from fedsim.flower.wire import OWN

_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG

Frames = list[Any]
"""Bytes-like objects."""


def can_fork() -> bool:
    """Return whether a process that has computed can be forked here; only Linux is supported."""
    return sys.platform == "linux"


class Fork:
    """One process, which answers chunks one after another."""

    def __init__(self, worker: ChunkRunner, threads: int) -> None:
        self._pipe, there = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the fork does not need
            self.pid = os.fork()
        if self.pid == 0:
            _serve(worker, there, threads)
        there.close()
        self._known: set[Hashable] = set()
        """Keys of the broadcasts that the process has."""

    @property
    def pipe(self) -> Connection:
        """The pipe to the process; it becomes readable when the process has answered or died."""
        return self._pipe

    def submit(self, chunk: Chunk, states: Sequence[RecordDict], broadcasts: dict[Hashable, Frames], call: int) -> None:
        """Send a chunk, with those of its broadcasts that the process does not have."""
        keys = [(call, key_of(content)) for content in chunk.contents]
        for key, content in zip(keys, chunk.contents, strict=True):
            if key not in broadcasts:
                broadcasts[key] = _encoded(RecordDict({n: record for n, record in content.items() if n != OWN}))
        distinct = list(dict.fromkeys(keys))
        own = [content.array_records.get(OWN) for content in chunk.contents]
        sent = [(distinct.index(key), arrays) for key, arrays in zip(keys, own, strict=True)]
        new = [key for key in distinct if key not in self._known]
        _send(self._pipe, _encoded((chunk.kind, distinct, new, sent, list(chunk.clients), list(states))))
        for key in new:
            _send(self._pipe, broadcasts[key])
        self._known = set(distinct)

    def receive(self) -> list[Reply]:
        """Return the replies to the chunk; EOFError or OSError if the process has died."""
        replies: list[Reply] = _received(self._pipe)
        return replies

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class Pool:
    """Forks that share a run's chunks. A fork that dies or hangs is replaced, and its chunk is tried again."""

    def __init__(
        self, worker: ChunkRunner, count: int, *, threads: int, retries: int, drop: bool, timeout_s: float | None
    ) -> None:
        self._make: Callable[[], Fork] = lambda: Fork(worker, threads)
        self._retries, self._drop, self._timeout_s = retries, drop, timeout_s or math.inf
        self._window = 2 * count + 2
        self._call = 0
        self._forks = [self._make() for _ in range(count)]

    def run(self, chunks: Sequence[Chunk], states_of: Callable[[Chunk], list[RecordDict]]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies in order; at most a few chunks run ahead of the oldest unfinished one.

        Raises
        ------
        ClusterLost
            If a chunk was lost more often than it may be retried, and the run must not drop it.
        """
        self._call += 1
        broadcasts: dict[Hashable, Frames] = {}
        waiting, after = deque((index, 0) for index in range(len(chunks))), predecessors(chunks)
        idle, busy = deque(self._forks), dict[Connection, tuple[int, int, float, Fork]]()
        done: dict[int, list[Reply]] = {}
        try:
            for index in range(len(chunks)):
                while index not in done:
                    while waiting and idle and waiting[0][0] < index + self._window and after[waiting[0][0]] < index:
                        (number, tries), fork = waiting.popleft(), idle.popleft()
                        busy[fork.pipe] = number, tries, time.monotonic() + self._timeout_s, fork
                        with contextlib.suppress(OSError):  # it is dead; its pipe will report that
                            fork.submit(chunks[number], states_of(chunks[number]), broadcasts, self._call)
                    for pipe in self._ended(busy):
                        number, tries, _, fork = busy.pop(pipe)
                        try:
                            if not pipe.poll():
                                raise TimeoutError
                            done[number] = fork.receive()
                            idle.append(fork)
                        except (EOFError, OSError) as error:
                            idle.append(self._replaced(fork))
                            if tries < self._retries:
                                waiting.appendleft((number, tries + 1))
                            else:
                                done[number] = self._lost(chunks[number], tries + 1, error)
                yield done.pop(index)
        finally:
            for *_, fork in busy.values():  # the caller stopped early, so the running chunks are useless
                self._replaced(fork)

    def _ended(self, busy: dict[Connection, tuple[int, int, float, Fork]]) -> list[Connection]:
        """Return the pipes of processes that have answered or died; if there are none, those that are overdue."""
        soonest = min(due for _, _, due, _ in busy.values())
        left_s = None if math.isinf(soonest) else max(0.0, soonest - time.monotonic())
        ended = [pipe for pipe in wait(list(busy), left_s) if isinstance(pipe, Connection)]
        return ended or [pipe for pipe, (_, _, due, _) in busy.items() if due <= time.monotonic()]

    def _replaced(self, fork: Fork) -> Fork:
        fork.kill()
        place = self._forks.index(fork)
        self._forks[place] = self._make()
        return self._forks[place]

    def _lost(self, chunk: Chunk, times: int, error: Exception) -> list[Reply]:
        late = isinstance(error, TimeoutError)
        why = f"it took more than engine.chunk_timeout_s = {self._timeout_s:g}" if late else "it died"
        return lost(chunk, f"its worker failed {times} times: {why}", drop=self._drop)

    def close(self) -> None:
        """End all processes."""
        while self._forks:
            self._forks.pop().kill()


# In the forked process ------------------------------------------------------------------------------------------------


def _serve(worker: ChunkRunner, pipe: Connection, threads: int) -> None:
    """Answer chunks until the other end is closed; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)
        # The fork inherits open files, among them the run's lock and the pipes of the other forks.
        keep = pipe.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        torch.set_num_threads(threads)
        broadcasts: dict[Hashable, RecordDict] = {}
        while True:
            kind, keys, new, sent, clients, states = _received(pipe)
            fresh = {key: _received(pipe) for key in new}
            broadcasts = {key: fresh[key] if key in fresh else broadcasts[key] for key in keys}
            contents = [_content(broadcasts[keys[i]], own) for i, own in sent]
            _send(pipe, _encoded(answer(worker, kind, contents, clients, states)))
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _content(broadcast: RecordDict, own: ArrayRecord | None) -> RecordDict:
    return broadcast if own is None else RecordDict({**broadcast, OWN: own})


# Both ends ------------------------------------------------------------------------------------------------------------


def _encoded(value: Any) -> Frames:
    """Return a value as frames: its pickled structure, and the memory of its arrays."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=arrays.append)
    return [head, *(array.raw() for array in arrays)]


def _send(pipe: Connection, frames: Frames) -> None:
    pipe.send_bytes(len(frames).to_bytes(4, "little"))
    for frame in frames:
        pipe.send_bytes(frame)


def _received(pipe: Connection) -> Any:
    frames = [pipe.recv_bytes() for _ in range(int.from_bytes(pipe.recv_bytes(), "little"))]
    return pickle.loads(frames[0], buffers=frames[1:])  # from this process's own fork, so it can be trusted
