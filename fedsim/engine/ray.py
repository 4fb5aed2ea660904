"""The engine on Ray: chunks go to a pool of actors, each with its own worker."""

from __future__ import annotations

import atexit
import gc
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from flwr.app import ArrayRecord, RecordDict

from fedsim.config.run import EngineConfig, RunConfig
from fedsim.engine.base import Chunk, ChunkRunner, Engine, answer, key_of, lost, predecessors
from fedsim.engine.client_state_file import size_bytes
from fedsim.engine.ray_cluster import ENDED, Cluster
from fedsim.engine.ray_metrics import RayGauges, metrics_address
from fedsim.engine.ray_start import ray
from fedsim.engine.registry import engine
from fedsim.engine.reply import Reply
from fedsim.engine.states import ClientStates
from fedsim.engine.worker import Worker
from fedsim.environment import code_in_use
from fedsim.errors import FedsimError
from fedsim.flower.records import TensorArray, copy_records
from fedsim.flower.wire import OWN

_GAUGES = {
    "round": "Rounds done",
    "accuracy": "Accuracy of the global model on the test set, in [0, 1]",
    "clients_per_second": "Clients trained per second in the newest round",
    "failures": "Client replies lost so far",
    "bytes_sent": "Bytes put into the object store for clients so far",
}


class FedsimWorker:
    """An actor: a process that can work for any run. The class name shows in process lists."""

    def __init__(self) -> None:
        self._run: Any = None
        self._worker: ChunkRunner | None = None
        self._broadcasts: dict[Any, RecordDict] = {}
        self._gauges: RayGauges | None = None

    def code(self) -> dict[str, str]:
        """Return the versions of the code in this process."""
        return code_in_use()

    def open_run(self, run: list[Any]) -> None:
        """Make the worker of a run, unless this process has it; `run` is [reference to the function that makes it]."""
        if run[0] == self._run:
            return
        self.release()
        self._worker = ray.get(run[0])()
        self._run = run[0]

    def run_chunk(
        self,
        run: list[Any],
        kind: str,
        refs: list[Any],
        sent: list[tuple[int, ArrayRecord | None]],
        clients: list[int],
        states: list[RecordDict],
    ) -> list[Reply]:
        """Answer a chunk. Each client i received the broadcast refs[j] and its own arrays, given as (j, arrays)."""
        self.open_run(run)
        assert self._worker is not None
        # A broadcast is read from the object store once per round, not once per chunk.
        self._broadcasts = {ref: self._broadcasts[ref] if ref in self._broadcasts else ray.get(ref) for ref in refs}
        contents = [
            self._broadcasts[refs[i]] if own is None else RecordDict({**self._broadcasts[refs[i]], OWN: own})
            for i, own in sent
        ]
        return answer(self._worker, kind, contents, clients, states)

    def release(self) -> None:
        """Release a run, so that its objects in the object store can be freed."""
        self._run, self._worker, self._broadcasts = None, None, {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def show_gpu_memory(self) -> None:
        """Start to report this process's GPU memory, in bytes."""
        if self._gauges is None:
            self._gauges = RayGauges(
                {"gpu_memory_bytes": "GPU memory held by a worker"},
                lambda: {"gpu_memory_bytes": torch.cuda.memory_reserved() if torch.cuda.is_available() else 0},
                {"worker": ray.get_runtime_context().get_actor_name() or ""},
            )


_LOOK_EVERY_S = 0.2

cluster = Cluster(FedsimWorker)
atexit.register(cluster.leave)  # before Ray shuts down


class RayEngine(Engine):
    """Runs clients on Ray actors, each with a worker made by `make_worker`.

    The content of `make_worker`, such as a data set, is stored once in Ray's object store; all actors of a machine read
    it in place. An actor that dies or hangs is replaced, and its chunk is tried again, at most `retries` times. Then
    the run stops, or the chunk's clients fail, as `lost_chunks` says. Actors outlive the engine and serve the next one.
    """

    def __init__(
        self, make_worker: Callable[[], ChunkRunner], num_clients: int, chunk: int, options: EngineConfig
    ) -> None:
        super().__init__(num_clients, chunk, ClientStates(options.state_memory_mb << 20))
        self._retries, self._drop = options.retries, options.lost_chunks == "drop"
        self._proved: set[Any] = set()
        """Actors that have answered before; others may still wait for a node with room for them."""
        self._timeout_s = options.chunk_timeout_s or math.inf
        self._bytes_sent = 0
        self._shown: Mapping[str, float] = {}
        self._gauges: RayGauges | None = None
        self._lease = cluster.lease(options)
        self.num_workers = self._lease.count
        try:
            self._worker = [ray.put(make_worker)]
        except ray.exceptions.RayError as error:
            self.close()
            raise FedsimError(f"engine: the data does not fit Ray's object store ({_first_line(error)})") from None
        self._prepare()
        if options.dashboard and cluster.dashboard:
            self.notes["dashboard"] = f"http://{cluster.dashboard} (metrics: {metrics_address()})"
            self.notes["dashboard token"] = "ray get-auth-token"
            self._gauges = RayGauges(_GAUGES, lambda: self._shown)

    def _prepare(self) -> None:
        """Make the workers of all actors, so that errors in them appear before the run begins."""
        here = code_in_use()
        calls = [(a, a.open_run.remote(self._worker), a.code.remote()) for a in self._lease.actors]
        for actor, call, code in calls:
            try:
                ray.get(call)
                _require_same_code(here, ray.get(code))
                self._proved.add(actor)
            except FedsimError:
                self.close()
                raise
            except ray.exceptions.RayTaskError as error:
                self.close()
                cause = error.cause
                what = f"{type(cause).__name__}: {cause}" if cause else _first_line(error)
                raise FedsimError(f"engine: a Ray worker cannot be set up ({what})") from None
            except ray.exceptions.RayActorError:  # it died while it waited for this run
                self._kill(actor)

    def run_chunks(self, chunks: Sequence[Chunk]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies in order; at most a few chunks run ahead of the oldest unfinished one.

        Raises
        ------
        ClusterLost
            If Ray itself has failed, or a chunk was lost more often than it may be retried.
        """
        cluster.fill(self._lease)
        window = 2 * self.num_workers + 2
        broadcasts: dict[Hashable, Any] = {}  # key -> ref: one copy in the store per broadcast
        uses = Counter(key for chunk in chunks for key in set(map(key_of, chunk.contents)))
        waiting = deque((index, 0) for index in range(len(chunks)))
        after = predecessors(chunks)
        idle = deque(self._lease.actors)
        running: dict[Any, tuple[int, int, Any]] = {}
        due: dict[Any, float] = {}  # the time at which a chunk's actor counts as hanging
        done: dict[int, list[Reply]] = {}
        try:
            for index in range(len(chunks)):
                while index not in done:
                    while waiting and idle and waiting[0][0] < index + window and after[waiting[0][0]] < index:
                        number, tries = waiting.popleft()
                        actor = idle.popleft()
                        ref = self._submit(actor, chunks[number], broadcasts)
                        running[ref], due[ref] = (number, tries, actor), time.monotonic() + self._timeout_s
                    ref, ended = self._first(due, running)
                    number, tries, actor = running.pop(ref)
                    late_s = due.pop(ref)
                    try:
                        done[number] = [_owning_state(reply) for reply in ray.get(ref, timeout=None if ended else 0)]
                        idle.append(actor)
                        self._proved.add(actor)
                    except ray.exceptions.RayError as error:
                        in_vain = not ended and time.monotonic() < late_s  # the actor never received the chunk
                        idle += self._after(error, actor)
                        if in_vain or tries < self._retries:
                            waiting.appendleft((number, tries if in_vain else tries + 1))
                        else:
                            told = f"its worker failed {tries + 1} times: {self._reason(error)}"
                            done[number] = lost(chunks[number], told, drop=self._drop)
                for key in set(map(key_of, chunks[index].contents)):
                    uses[key] -= 1
                    if not uses[key]:
                        del broadcasts[key]
                yield done.pop(index)
        finally:
            for _, _, actor in running.values():  # the caller stopped early, so the running chunks are useless
                self._kill(actor)

    def _first(self, due: Mapping[Any, float], running: Mapping[Any, tuple[int, int, Any]]) -> tuple[Any, bool]:
        """Return the first running call that ended, is overdue, or cannot start; and whether it ended."""
        for patience in itertools.count(1):
            cluster.require_alive()
            soonest = min(due, key=due.__getitem__)
            left_s = due[soonest] - time.monotonic()
            ended, _ = ray.wait(list(due), num_returns=1, timeout=min(_LOOK_EVERY_S, max(0.0, left_s)))
            if ended or left_s <= 0:
                return (ended[0], True) if ended else (soonest, False)
            unproved = [ref for ref, (_, _, actor) in running.items() if actor not in self._proved]
            if patience % 10 == 0 and unproved and len(self._lease.actors) > cluster.room(self._lease):
                return unproved[0], False  # a node was lost, and no other has room for this actor
        raise AssertionError("it counts for ever")

    def _submit(self, actor: Any, chunk: Chunk, broadcasts: dict[Hashable, Any]) -> Any:
        cluster.require_alive()
        keys = list(map(key_of, chunk.contents))
        own = [content.get(OWN) for content in chunk.contents]
        for key, content in zip(keys, chunk.contents, strict=True):
            if key not in broadcasts:
                shared = RecordDict({name: record for name, record in content.items() if name != OWN})
                broadcasts[key] = ray.put(shared)
                self._bytes_sent += size_bytes(shared)
        distinct = list(dict.fromkeys(keys))
        sent = [(distinct.index(key), arrays) for key, arrays in zip(keys, own, strict=True)]
        states = self.states_of(chunk)
        theirs = [*states, *(RecordDict({OWN: arrays}) for arrays in own if arrays is not None)]
        self._bytes_sent += sum(map(size_bytes, theirs))
        refs = [broadcasts[key] for key in distinct]
        return actor.run_chunk.remote(self._worker, chunk.kind, refs, sent, chunk.clients, states)

    def _after(self, error: Exception, actor: Any) -> list[Any]:
        """Return the actors that are free again: this one, or a new one if it died and there is room."""
        if isinstance(error, ray.exceptions.RayTaskError):
            return [actor]
        self._kill(actor)
        return cluster.fill(self._lease)

    def _reason(self, error: Exception) -> str:
        late = isinstance(error, ray.exceptions.GetTimeoutError)
        return f"it took more than engine.chunk_timeout_s = {self._timeout_s:g}" if late else _first_line(error)

    def _kill(self, actor: Any) -> None:
        if not cluster.is_lost:
            ray.kill(actor)
        self._lease.actors.remove(actor)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Publish the metrics of a finished round on the dashboard's metrics endpoint, if there is one."""
        self._shown = {**metrics, "bytes_sent": self._bytes_sent}
        if self._gauges is not None:
            for actor in self._lease.actors:
                actor.show_gpu_memory.remote()

    def leave_word(self, advice: str) -> None:
        """Have this advice told if Ray's core ends this process."""
        cluster.last_words(f"{ENDED}; {advice}")

    def close(self) -> None:
        """Free the run's data and return the actors to the pool."""
        if self._gauges is not None:
            self._gauges.close()
        cluster.give_back(self._lease)
        self._worker = []
        super().close()


def _require_same_code(here: Mapping[str, str], there: Mapping[str, str]) -> None:
    for name, value in here.items():
        if there.get(name) != value:
            raise FedsimError(
                f"engine: a Ray worker computes with another {name} ({there.get(name, 'none')[:12]}, not "
                f"{value[:12]}); install the same versions on every node"
            )


@engine("ray")
def on_ray(worker: Worker, config: RunConfig, chunk: int) -> RayEngine:
    """Return a run's Ray engine."""
    return RayEngine(partial(Worker, config, worker.data), config.clients, chunk, config.engine)


def _owning_state(reply: Reply) -> Reply:
    """Return the reply with its state copied, because a view would keep the whole chunk in the object store."""
    if reply.state is None:
        return reply
    state = copy_records(reply.state)
    for record in state.array_records.values():
        for name, array in record.items():
            if isinstance(array, TensorArray):
                record[name] = TensorArray(array.tensor.clone())
    return reply._replace(state=state)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
