"""The engine on Ray: a pool of actors, each with a worker of its own, takes chunks."""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import RecordDict

from fedsim.config import EngineConfig, RunConfig
from fedsim.data.federation import FederatedData
from fedsim.engine.base import Chunk, Engine
from fedsim.errors import FedsimError
from fedsim.worker import Reply, Worker

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about CUDA_VISIBLE_DEVICES

if TYPE_CHECKING:
    import ray
else:
    try:
        import ray
    except ImportError:
        ray = None


class _Actor:
    """Lives in a process of its own."""

    def __init__(self, config: RunConfig, data: FederatedData) -> None:
        self.worker = Worker(config, data)
        self._broadcasts: dict[Any, RecordDict] = {}

    def run_chunk(
        self, kind: str, refs: list[Any], which: list[int], clients: list[int], states: list[RecordDict]
    ) -> list[Reply]:
        """Answer a chunk; client i was sent the broadcast refs[which[i]]."""
        # A broadcast is taken from the object store once per round, not once per chunk.
        self._broadcasts = {ref: self._broadcasts[ref] if ref in self._broadcasts else ray.get(ref) for ref in refs}
        return self.worker.run_chunk(kind, [self._broadcasts[refs[i]] for i in which], clients, states)


class RayEngine(Engine):
    """Runs a run's clients on Ray actors.

    The data set lies once in Ray's object store, where all actors of a machine read it in place. An actor that dies
    is replaced and its chunk tried again, `engine.retries` times; then the chunk's clients fail.
    """

    def __init__(self, config: RunConfig, data: FederatedData, chunk: int) -> None:
        super().__init__(config.clients, chunk)
        if ray is None:
            raise FedsimError("engine.name: ray is not installed; install it with: pip install 'ray[default]'")
        self.config = config
        self._owned = _start(config.engine)
        self._data = ray.put(data)
        self.num_workers = config.engine.num_workers or _fitting_workers(config.engine)
        self._actors = [self._spawn() for _ in range(self.num_workers)]

    def _spawn(self) -> Any:
        engine = self.config.engine
        actor = ray.remote(_Actor).options(num_cpus=engine.cpus_per_worker, num_gpus=engine.gpus_per_worker)
        return actor.remote(self.config, self._data)

    def run_chunks(self, chunks: Sequence[Chunk]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies in order, with at most a few chunks beyond the oldest unfinished one."""
        window = 2 * self.num_workers + 2
        broadcasts: dict[int, Any] = {}  # id(content) -> (content, ref): one copy in the store per distinct content
        waiting = deque((index, 0) for index in range(len(chunks)))
        idle = deque(self._actors)
        running: dict[Any, tuple[int, int, Any]] = {}
        done: dict[int, list[Reply]] = {}
        try:
            for index in range(len(chunks)):
                while index not in done:
                    while waiting and idle and waiting[0][0] < index + window:
                        number, tries = waiting.popleft()
                        actor = idle.popleft()
                        running[self._submit(actor, chunks[number], broadcasts)] = (number, tries, actor)
                    ref = ray.wait(list(running), num_returns=1)[0][0]
                    number, tries, actor = running.pop(ref)
                    try:
                        done[number] = ray.get(ref)
                        idle.append(actor)
                    except ray.exceptions.RayActorError as error:
                        idle.append(self._replace(actor))
                        if tries < self.config.engine.retries:
                            waiting.appendleft((number, tries + 1))
                        else:
                            lost = Reply(None, f"its Ray actor died {tries + 1} times: {str(error).splitlines()[0]}")
                            done[number] = [lost] * len(chunks[number].clients)
                yield done.pop(index)
        finally:
            for _, _, actor in running.values():  # the caller stopped early: what still runs is of no use
                self._replace(actor)

    def _submit(self, actor: Any, chunk: Chunk, broadcasts: dict[int, Any]) -> Any:
        for content in chunk.contents:
            if id(content) not in broadcasts:
                broadcasts[id(content)] = (content, ray.put(content))
        distinct = list(dict.fromkeys(map(id, chunk.contents)))
        refs = [broadcasts[key][1] for key in distinct]
        which = [distinct.index(id(content)) for content in chunk.contents]
        return actor.run_chunk.remote(chunk.kind, refs, which, chunk.clients, self.states_of(chunk))

    def _replace(self, actor: Any) -> Any:
        ray.kill(actor)
        fresh = self._spawn()
        self._actors[self._actors.index(actor)] = fresh
        return fresh

    def close(self) -> None:
        """Stop the actors, and Ray if this engine started it."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._owned:
            ray.shutdown()


def _start(engine: EngineConfig) -> bool:
    """Start or join Ray; returns whether it was started here."""
    if ray.is_initialized():
        return False
    if engine.dashboard:
        _require_free_port(engine.dashboard_port)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if engine.ray_address is None:
        needed = math.ceil((engine.num_workers or 1) * engine.cpus_per_worker)
        options |= {
            "num_cpus": max(os.cpu_count() or 1, needed),
            "include_dashboard": engine.dashboard,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": engine.dashboard_port,
        }
    try:
        ray.init(address=engine.ray_address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"engine.ray_address {engine.ray_address}" if engine.ray_address else "ray"
        raise FedsimError(f"{where}: {str(error).splitlines()[0]}") from None
    return True


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise FedsimError(f"engine.dashboard_port: port {port} on 127.0.0.1 is in use; choose another") from None


def _fitting_workers(engine: EngineConfig) -> int:
    """Return how many actors the cluster has room for."""
    free = ray.cluster_resources()
    workers = int(free.get("CPU", 0) / engine.cpus_per_worker)
    if engine.gpus_per_worker:
        workers = min(workers, int(free.get("GPU", 0) / engine.gpus_per_worker))
    if workers < 1:
        raise FedsimError(
            f"engine: the cluster has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs, too few for one "
            f"worker of {engine.cpus_per_worker:g} CPUs and {engine.gpus_per_worker:g} GPUs"
        )
    return workers
