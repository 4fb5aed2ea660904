"""The engine of this machine: it runs chunks in this process until worker processes are worth their start."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from fedsim.config.run import EngineConfig, RunConfig
from fedsim.engine.base import Chunk, ChunkRunner, Engine, answer
from fedsim.engine.client_state_file import size_bytes
from fedsim.engine.forks import Pool
from fedsim.engine.registry import engine
from fedsim.engine.reply import Reply
from fedsim.engine.states import ClientStates
from fedsim.engine.worker import Worker

_MEASURED = 2  # rounds; the first includes one-time costs
_START_S = 1.0
_BYTES_PER_S = 5e8  # through a pipe and back into arrays
_PER_CHUNK_S = 1e-3
_WORTHWHILE = 0.9  # largest fraction of the time in this process; with less gain, the cores are left to other processes


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalEngine(Engine):
    """Runs clients in this process, or in processes forked from it; the results have the same bits.

    `local` forks at once. `auto` starts in this process and measures two rounds. It forks if the remaining rounds of
    `rounds` gain more time than the fork costs, and returns to this process if forking gains nothing. In one process,
    it calls `allow_threads` with the number of threads that the worker may use, where this keeps the bits the same.
    """

    def __init__(
        self,
        worker: ChunkRunner,
        num_clients: int,
        chunk: int,
        options: EngineConfig,
        rounds: int,
        allow_threads: Callable[[int], None] = lambda count: None,
    ) -> None:
        super().__init__(num_clients, chunk, ClientStates(options.state_memory_mb << 20))
        self.worker, self._allow_threads = worker, allow_threads
        self._options = options
        self._rounds = rounds
        self._count = options.num_workers or max(1, cores() // options.threads)
        self._pool: Pool | None = None
        self._spent: list[float] = []
        """Seconds that each chunk of this round took in this process."""
        self._waited_s, self._bytes = 0.0, 0
        self._seen = 0
        """Rounds since the last change of mode."""
        self._alone_s = 0.0
        """Seconds of local work per round in this process."""
        self._open = options.name == "auto"
        if not self._open:
            self._fork()

    def run_chunks(self, chunks: Sequence[Chunk]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies in order."""
        if self._pool is None:
            for chunk in chunks:
                begun = time.perf_counter()
                replies = answer(self.worker, chunk.kind, chunk.contents, chunk.clients, self.states_of(chunk))
                self._spent.append(time.perf_counter() - begun)
                if self._open:
                    self._bytes += sum(size_bytes(reply.content) for reply in replies if reply.content is not None)
                yield replies
            return
        begun = time.perf_counter()
        for replies in self._pool.run(chunks, self.states_of):
            self._waited_s += time.perf_counter() - begun
            yield replies
            begun = time.perf_counter()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Decide where the next round runs, from the time of this round."""
        self._seen += 1
        if self._open and self._seen >= _MEASURED:
            if self._pool is None:
                self._consider(int(metrics["round"]))
            else:
                self._reconsider()
        self._spent, self._waited_s, self._bytes = [], 0.0, 0

    def _consider(self, server_round: int) -> None:
        """Fork if the remaining rounds gain more than it costs."""
        self._alone_s = sum(self._spent)
        shared_s = _makespan(self._spent, self._count) + self._bytes / _BYTES_PER_S + _PER_CHUNK_S * len(self._spent)
        left = self._rounds - server_round
        if shared_s < _WORTHWHILE * self._alone_s and left * (self._alone_s - shared_s) > _START_S:
            self._fork()
            self._seen = 0
            self._say(f"{self._count} worker processes from round {server_round + 1} on")
            return
        why = "one chunk has most of it" if shared_s >= _WORTHWHILE * self._alone_s else f"{left} rounds are left"
        self._stay(f"(the clients of a round take {self._alone_s:.2g} s, and {why}: workers would gain little)")

    def _reconsider(self) -> None:
        """Return to this process if it is as fast as the forks."""
        told = f"the clients of a round take {self._waited_s:.2g} s in them, and took {self._alone_s:.2g} s in one"
        if self._waited_s < _WORTHWHILE * self._alone_s:
            self._open = False
            self._say(f"{self._count} worker processes ({told})")
            return
        assert self._pool is not None
        self._pool.close()
        self._pool = None
        self._stay(f"after a try of {self._count} worker processes ({told})")

    def _stay(self, why: str) -> None:
        """Stay in this process, with all threads."""
        self._open = False
        threads = self._count * self._options.threads
        self._allow_threads(threads)
        self._say(f"inprocess, with up to {threads} threads {why}")

    def _say(self, what: str) -> None:
        self.notes["engine"] = what

    def _fork(self) -> None:
        options = self._options
        self._pool = Pool(
            self.worker, self._count, threads=options.threads, retries=options.retries,
            drop=options.lost_chunks == "drop", timeout_s=options.chunk_timeout_s,
        )  # fmt: skip

    def close(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.close()
        super().close()


@engine("auto")
@engine("local")
def local(worker: Worker, config: RunConfig, chunk: int) -> LocalEngine:
    """Return a run's engine for this machine."""
    recorder = worker.trainer.recorder
    return LocalEngine(worker, config.clients, chunk, config.engine, config.rounds, recorder.allow_threads)


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """Return the total time of these jobs, if each goes to the worker that is free first."""
    free = [0.0] * workers
    for job in seconds:
        heapq.heapreplace(free, free[0] + job)
    return max(free)
